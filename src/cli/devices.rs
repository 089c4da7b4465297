//! `softreg devices`.

use std::path::Path;

use anyhow::Result;
use indicatif::HumanBytes;
use softreg::Device;

use crate::output;

pub fn run() -> Result<()> {
    let auto = Device::auto();
    let devices = Device::list();
    let bytes = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), |bytes| HumanBytes(bytes).to_string());
    let width = |texts: &mut dyn Iterator<Item = String>| texts.map(|text| text.chars().count()).max().unwrap_or(0);
    let name_width = width(&mut devices.iter().map(|info| info.name.clone())).max("name".len());
    let kind_width = width(&mut devices.iter().map(|info| info.kind.to_string())).max("kind".len());

    output::write(Path::new("-"), |out| {
        writeln!(
            out,
            "  {:name_width$}  {:kind_width$} {:>10} {:>10} {:>10} {:>10}  driver",
            "name", "kind", "memory", "buffer", "binding", "workgroup"
        )?;
        let mut marked = false;
        for info in &devices {
            let is_auto = !marked && (&info.name, info.backend) == (&auto.info().name, auto.info().backend);
            marked |= is_auto;
            let driver = match (info.backend, &*info.driver) {
                ("cpu", driver) => driver.to_owned(),
                (backend, "") => backend.to_owned(),
                (backend, driver) => format!("{backend}, {driver}"),
            };
            let line = format!(
                "{} {:name_width$}  {:kind_width$} {:>10} {:>10} {:>10} {:>10}  {driver}",
                if is_auto { '*' } else { ' ' },
                info.name,
                info.kind,
                bytes(info.memory),
                bytes(info.max_buffer),
                bytes(info.max_binding),
                bytes(info.max_workgroup_memory.map(u64::from)),
            );
            writeln!(out, "{}", line.trim_end())?;
            if let Some(why) = &info.unusable {
                writeln!(out, "    not usable: {why}")?;
            }
        }
        writeln!(out, "\n* --device auto takes this one: {}", auto.reason())?;
        writeln!(out, "--device takes a name or a part of one. A buffer is the largest piece of memory that")?;
        writeln!(out, "can be had at once, a binding what a kernel sees of it (larger data is held in")?;
        writeln!(out, "chunks), workgroup memory what its threads share.")
    })
}
