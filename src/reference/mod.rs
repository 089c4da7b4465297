//! The formulas, plainly, in f64: what every kernel is checked against.
