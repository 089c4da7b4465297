//! The CPU backend.

use super::{Backend, DeviceInfo, DeviceKind, Parameters, Session};
use crate::data::Features;
use crate::error::Result;

/// The CPU backend.
pub struct Cpu {
    info: DeviceInfo,
}

impl Cpu {
    pub(super) fn new() -> Self {
        Self { info: DeviceInfo { name: "cpu".into(), backend: "cpu", kind: DeviceKind::Cpu, driver: String::new(), memory: None, max_buffer: None, max_binding: None, max_workgroup_memory: None, unusable: None } }
    }
}

impl Backend for Cpu {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn session<'a>(&'a self, _features: &'a Features<'a>, _scale: f32, _targets: Option<&'a crate::data::Targets<'a>>) -> Result<Box<dyn Session + 'a>> {
        todo!()
    }
}

/// Logits of one sample.
pub(crate) fn logits_of_row(_parameters: &Parameters, _sample: &[f32], _logits: &mut [f32]) {
    todo!()
}
