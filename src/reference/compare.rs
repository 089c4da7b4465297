//! The one comparison of single precision results with the reference.

/// Half the distance of 1 to the next `f32`: the relative error of one correctly rounded operation.
pub const UNIT_ROUNDOFF: f64 = 1.0 / (1u32 << 24) as f64;

/// How far half precision may be from a value: a device may round to either neighbour, and flush to zero what is below the
/// smallest normal number, 2⁻¹⁴.
pub(super) fn half_error(value: f64) -> f64 {
    value.abs() / 1024.0 + (0.5f64).powi(14)
}

/// Whether every `found` is within its `bound` of `expected`. The message names the worst index.
///
/// Fails also when lengths differ, when a value is not finite, and when the bounds are so wide that a result of all
/// zeros would pass though the expected one is not zero.
pub fn compare(what: &str, found: &[f32], expected: &[f64], bound: &[f64]) -> Result<(), String> {
    let lengths = (found.len(), expected.len(), bound.len());
    if lengths.0 != lengths.1 || lengths.0 != lengths.2 {
        return Err(format!("{what}: lengths of found, expected and bound are {lengths:?}"));
    }
    let mut worst = (0.0, 0);
    for index in 0..found.len() {
        let (found, expected, bound) = (f64::from(found[index]), expected[index], bound[index]);
        if !(found.is_finite() && expected.is_finite() && bound.is_finite()) {
            return Err(format!("{what}: [{index}] is {found}, expected {expected} ± {bound}: not finite"));
        }
        // The smallest normal f32 is added: below it devices may flush to zero.
        let excess = (found - expected).abs() / (bound + f64::from(f32::MIN_POSITIVE));
        if excess > worst.0 {
            worst = (excess, index);
        }
    }
    if worst.0 > 1.0 {
        let index = worst.1;
        return Err(format!(
            "{what}: [{index}] of {} is {}, expected {} ± {:e}: {:.1} times the bound",
            found.len(),
            found[index],
            expected[index],
            bound[index],
            worst.0
        ));
    }
    let zeros_pass = expected.iter().zip(bound).all(|(expected, bound)| expected.abs() <= *bound);
    if zeros_pass && expected.iter().any(|&expected| expected != 0.0) {
        return Err(format!("{what}: the bounds are too wide, a result of all zeros would pass"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn it_fails_when_it_must() {
        let good = [1.0, 2.0, 3.0];
        let bound = [1e-6; 3];
        assert!(compare("same", &[1.0, 2.0, 3.0], &good, &bound).is_ok());
        assert!(compare("one off", &[1.0, 2.0, 3.00001], &good, &bound).unwrap_err().contains("[2]"));
        assert!(compare("zeros", &[0.0; 3], &good, &bound).is_err());
        assert!(compare("wide", &[1.0, 2.0, 3.0], &good, &[5.0; 3]).unwrap_err().contains("too wide"));
        assert!(compare("short", &[1.0, 2.0], &good, &bound).is_err());
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(compare("not finite", &[1.0, bad, 3.0], &good, &bound).is_err());
        }
        assert!(compare("zeros are right", &[0.0; 3], &[0.0; 3], &bound).is_ok());
    }
}
