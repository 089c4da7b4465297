//! What the pages of a Parquet file say of their sizes. It is compared with the size of the file before they are unpacked, since
//! what unpacks them allocates what they say. A page begins with a header in Thrift's compact protocol; all that is needed of
//! it are three numbers.

use std::io::{self, Read};

/// What the header of a page says.
#[derive(Debug, Default, PartialEq)]
struct Page {
    /// Bytes of the header.
    header: u64,
    packed: u64,
    unpacked: u64,
    /// The values of a page that is a dictionary.
    dictionary: u64,
}

/// That pages that follow one another, `length` bytes, unpack to no more than `left` bytes, which then are fewer; `None` if they
/// unpack to more.
pub(super) fn check(
    mut content: impl FnMut(u64) -> io::Result<Box<dyn Read>>,
    length: u64,
    left: &mut u64,
) -> io::Result<Option<()>> {
    let mut position = 0;
    while position < length {
        let page = Header { content: content(position)?, bytes: 0 }.page()?;
        // A value of a dictionary takes four bytes and more.
        if page.dictionary > page.unpacked {
            return Err(invalid("a dictionary of more values than bytes"));
        }
        match left.checked_sub(page.unpacked) {
            Some(rest) => *left = rest,
            None => return Ok(None),
        }
        position += page.header + page.packed;
    }
    Ok(Some(()))
}

/// That the metadata at the end of a file has as much in it as its lists say. The crate of Parquet leaves out lists that it does not
/// know in as many steps, and boolean elements of them need no byte to be there.
pub(super) fn check_metadata(content: impl Read) -> io::Result<()> {
    Header { content, bytes: 0 }.skip(STRUCT, 0)
}

fn invalid(problem: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

struct Header<R> {
    content: R,
    bytes: u64,
}

// The types of Thrift's compact protocol.
const STOP: u8 = 0;
const TRUE: u8 = 1;
const FALSE: u8 = 2;
const BYTE: u8 = 3;
const I16: u8 = 4;
const I32: u8 = 5;
const I64: u8 = 6;
const DOUBLE: u8 = 7;
const BINARY: u8 = 8;
const LIST: u8 = 9;
const SET: u8 = 10;
const STRUCT: u8 = 12;

impl<R: Read> Header<R> {
    fn page(mut self) -> io::Result<Page> {
        let mut page = Page::default();
        let mut field = 0;
        while let Some((id, kind)) = self.field(field)? {
            match (id, kind) {
                (2, I32) => page.unpacked = self.size()?,
                (3, I32) => page.packed = self.size()?,
                // The header of a dictionary, which begins with the number of its values.
                (7, STRUCT) => {
                    let mut of_dictionary = 0;
                    while let Some((id, kind)) = self.field(of_dictionary)? {
                        match (id, kind) {
                            (1, I32) => page.dictionary = self.size()?,
                            _ => self.skip(kind, 0)?,
                        }
                        of_dictionary = id;
                    }
                }
                _ => self.skip(kind, 0)?,
            }
            field = id;
        }
        Ok(Page { header: self.bytes, ..page })
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.content.read_exact(&mut byte)?;
        self.bytes += 1;
        Ok(byte[0])
    }

    /// A number of as many bytes as it needs, seven bits in each.
    fn varint(&mut self) -> io::Result<u64> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            number |= u64::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(invalid("a number of more than 64 bits"))
    }

    /// A signed number that must not be negative: the sign is in the last bit.
    fn size(&mut self) -> io::Result<u64> {
        match self.varint()? {
            number if number % 2 == 0 => Ok(number / 2),
            _ => Err(invalid("a negative size")),
        }
    }

    /// The number and the type of the next field of a struct, after field `last`; none at its end.
    fn field(&mut self, last: i16) -> io::Result<Option<(i16, u8)>> {
        let byte = self.byte()?;
        let kind = byte & 0x0F;
        if kind == STOP {
            return Ok(None);
        }
        let id = match byte >> 4 {
            0 => {
                let number = self.varint()?;
                ((number >> 1) as i16) ^ -((number & 1) as i16)
            }
            more => last.wrapping_add(more.into()),
        };
        Ok(Some((id, kind)))
    }

    fn skip(&mut self, kind: u8, depth: usize) -> io::Result<()> {
        // Metadata has seven.
        if depth > 16 {
            return Err(invalid("structs in structs in structs"));
        }
        match kind {
            TRUE | FALSE => Ok(()),
            BYTE => self.byte().map(drop),
            I16 | I32 | I64 => self.varint().map(drop),
            DOUBLE => self.bytes(8),
            BINARY => {
                let length = self.varint()?;
                self.bytes(length)
            }
            LIST | SET => {
                let byte = self.byte()?;
                let length = match byte >> 4 {
                    15 => self.varint()?,
                    length => length.into(),
                };
                // Parquet has none in what is read here; see above.
                if length > 0 && byte & 0x0F <= FALSE {
                    return Err(invalid("a list of booleans"));
                }
                for _ in 0..length {
                    self.skip(byte & 0x0F, depth + 1)?;
                }
                Ok(())
            }
            STRUCT => {
                let mut last = 0;
                while let Some((id, kind)) = self.field(last)? {
                    self.skip(kind, depth + 1)?;
                    last = id;
                }
                Ok(())
            }
            _ => Err(invalid("the header of a page is damaged")),
        }
    }

    fn bytes(&mut self, length: u64) -> io::Result<()> {
        match io::copy(&mut self.content.by_ref().take(length), &mut io::sink())? {
            n if n == length => self.bytes += n,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A dictionary page: 300 bytes unpacked, 200 packed, a checksum, and 70 values; a list and a text that are not known.
    const HEADER: &[u8] = &[
        0x15, 0x04, 0x15, 0xD8, 0x04, 0x15, 0x90, 0x03, 0x15, 0x01, 0x3C, 0x15, 0x8C, 0x01, 0x15, 0x00, 0x11, 0x00,
        0x29, 0x23, 0x01, 0x02, 0x18, 0x03, b'a', b'b', b'c', 0x00,
    ];

    #[test]
    fn the_sizes_are_found_among_what_is_skipped() {
        let page = Header { content: HEADER, bytes: 0 }.page().unwrap();
        assert_eq!(page, Page { header: HEADER.len() as u64, packed: 200, unpacked: 300, dictionary: 70 });
        for length in 0..HEADER.len() {
            assert!(Header { content: &HEADER[..length], bytes: 0 }.page().is_err());
        }
        for index in 0..HEADER.len() {
            for byte in 0..=255 {
                let mut header = HEADER.to_vec();
                header[index] = byte;
                let _ = Header { content: &*header, bytes: 0 }.page();
            }
        }
    }

    #[test]
    fn lists_of_more_than_there_is_are_errors() {
        // Field 1 is a list, then the struct ends.
        let metadata =
            |list: &[u8]| check_metadata(&*[&[0x19], list, &[0x00]].concat()).map_err(|error| error.to_string());
        metadata(&[0x25, 0x02, 0x04]).unwrap();
        assert!(metadata(&[0x35, 0x02, 0x04]).is_err());
        assert!(metadata(&[0xF5, 0xFF, 0xFF, 0xFF, 0xFF, 0x07, 0x02]).is_err());
        for element in [TRUE, FALSE] {
            let many = metadata(&[0xF0 | element, 0xFF, 0xFF, 0xFF, 0xFF, 0x07]).unwrap_err();
            assert_eq!(many, "a list of booleans");
        }
    }

    #[test]
    fn sizes_that_no_data_has_are_errors() {
        let length = HEADER.len() as u64 + 200;
        let pages = |left: u64, header: &'static [u8]| {
            let mut left = left;
            let content = move |position: u64| Ok(Box::new(&header[(position % length) as usize..]) as Box<dyn Read>);
            check(content, 2 * length, &mut left).map(|fits| fits.map(|()| left))
        };
        assert_eq!(pages(700, HEADER).unwrap(), Some(100));
        assert_eq!(pages(599, HEADER).unwrap(), None);
        // 300 becomes 44 bytes, fewer than there are values.
        let small: &'static [u8] = &[0x15, 0x04, 0x15, 0x58, 0x15, 0x90, 0x03, 0x4C, 0x15, 0x8C, 0x01, 0x00, 0x00];
        assert!(pages(700, small).unwrap_err().to_string().contains("more values than bytes"));
    }
}
