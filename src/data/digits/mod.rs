//! The built-in data set: handwritten digits.

use super::{Dataset, Features, Labels};
use crate::error::Result;

/// 64 pixels and the digit, 1,797 times; README.md beside it says where it comes from.
static RECORDS: &[u8] = include_bytes!("digits.u8");
const N_FEATURES: usize = 64;

/// The UCI handwritten digits as scikit-learn ships them: 1,797 images of 8 × 8 pixels from 0 to 16, 10 classes.
///
/// E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
/// [doi:10.24432/C50P49](https://doi.org/10.24432/C50P49), licence CC BY 4.0.
///
/// # Errors
/// None: the data is part of the library and checked by its tests.
pub fn digits() -> Result<Dataset<'static>> {
    let records = RECORDS.chunks_exact(N_FEATURES + 1);
    let n_samples = records.len();
    let pixels: Vec<u8> = records.clone().flat_map(|record| &record[..N_FEATURES]).copied().collect();
    let labels: Vec<u32> = records.map(|record| u32::from(record[N_FEATURES])).collect();
    let names = (0..8).flat_map(|row| (0..8).map(move |column| format!("pixel_{row}_{column}"))).collect();
    Dataset::new(Features::new(pixels, n_samples, N_FEATURES)?, Labels::from_integers(&labels)?)?
        .with_feature_names(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Targets;

    #[test]
    fn the_digits_are_whole() {
        let digits = digits().unwrap();
        assert_eq!((digits.n_samples(), digits.n_features(), digits.n_classes()), (1797, 64, 10));
        let Targets::Classes(labels) = digits.labels().targets() else { panic!("soft labels") };
        let mut counts = [0; 10];
        for &label in labels.iter() {
            counts[label as usize] += 1;
        }
        // As the data set's own description has them.
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
    }
}
