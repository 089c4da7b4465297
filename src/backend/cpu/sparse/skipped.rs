//! What steps do to the weights of a feature that no sample of their batch has, afterwards and all at once.
//!
//! Without a gradient of the loss a step of gradient descent with momentum is linear in the weight and its velocity: g = l2·w,
//! v ← μ·v + g, and w ← w − η·v or, with Nesterov's momentum, w ← w − η·(g + μ·v). So many steps are the product of as many
//! matrices (2 × 2). Products of 2ˡ steps are kept for all l, as in a binary tree, of which any range is made of a few; prefix
//! products would have to be inverted, and lose all digits after a hundred steps, as their determinant falls with μᵗ.

use crate::backend::{Head, Rule};

/// Row-major; multiplied with (w, v).
type Matrix = [f64; 4];

/// The steps since the last time that all features were brought up to date.
pub(super) struct Skipped {
    n_heads: usize,
    n_steps: usize,
    /// Level l has for each 2ˡ steps the product of their matrices, of each head.
    levels: Vec<Vec<Matrix>>,
}

impl Skipped {
    pub fn new(n_heads: usize) -> Self {
        Self { n_heads, n_steps: 0, levels: Vec::new() }
    }

    pub fn n_steps(&self) -> usize {
        self.n_steps
    }

    pub fn clear(&mut self) {
        self.n_steps = 0;
        self.levels.clear();
    }

    /// Adds a step with the heads' learning rates times `rate`.
    pub fn push(&mut self, heads: &[Head], rate: f32) {
        if self.levels.is_empty() {
            self.levels.push(Vec::new());
        }
        self.levels[0].extend(heads.iter().map(|head| of_step(head, rate)));
        self.n_steps += 1;
        for level in 0..self.n_steps.trailing_zeros() as usize {
            let below = &self.levels[level];
            let last = &below[below.len() - 2 * self.n_heads..];
            let (first, second) = last.split_at(self.n_heads);
            let products: Vec<Matrix> = first.iter().zip(second).map(|(first, second)| times(second, first)).collect();
            if self.levels.len() == level + 1 {
                self.levels.push(Vec::new());
            }
            self.levels[level + 1].extend(products);
        }
    }

    /// The product of the steps from `from` on, before the step `until`.
    pub fn product(&self, head: usize, from: usize, until: usize) -> Matrix {
        let mut product = [1.0, 0.0, 0.0, 1.0];
        let mut at = from;
        while at < until {
            // The longest that begins here and ends in time.
            let level = at.trailing_zeros().min((until - at).ilog2());
            product = times(&self.levels[level as usize][(at >> level) * self.n_heads + head], &product);
            at += 1 << level;
        }
        product
    }
}

fn of_step(head: &Head, rate: f32) -> Matrix {
    match head.rule {
        Rule::Momentum { momentum, nesterov } => {
            let (l2, momentum) = (f64::from(head.l2), f64::from(momentum));
            let rate = f64::from(head.learning_rate) * f64::from(rate);
            match nesterov {
                false => [1.0 - rate * l2, -rate * momentum, l2, momentum],
                true => [1.0 - rate * l2 * (1.0 + momentum), -rate * momentum * momentum, l2, momentum],
            }
        }
        // Not linear: its steps are not skipped.
        Rule::AdamW { .. } => [1.0, 0.0, 0.0, 1.0],
    }
}

fn times(a: &Matrix, b: &Matrix) -> Matrix {
    [a[0] * b[0] + a[1] * b[2], a[0] * b[1] + a[1] * b[3], a[2] * b[0] + a[3] * b[2], a[2] * b[1] + a[3] * b[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_the_product_of_its_steps() {
        let heads = [(0.9, true), (0.5, false), (0.0, false)].map(|(momentum, nesterov)| Head {
            learning_rate: 0.1,
            l2: 0.3,
            intercept: true,
            rule: Rule::Momentum { momentum, nesterov },
        });
        let mut skipped = Skipped::new(3);
        let rate = |step: usize| 1.0 / (1 + step % 7) as f32;
        let n = 300;
        (0..n).for_each(|step| skipped.push(&heads, rate(step)));
        assert_eq!(skipped.n_steps(), n);
        for (index, head) in heads.iter().enumerate() {
            for (from, until) in
                [(0, 0), (0, 1), (0, n), (3, 4), (5, 298), (256, 300), (255, 257), (64, 128), (299, 300)]
            {
                let (mut w, mut v) = (1.0, -2.0);
                for step in from..until {
                    let Rule::Momentum { momentum, nesterov } = head.rule else { panic!("no momentum") };
                    let (momentum, g) = (f64::from(momentum), f64::from(head.l2) * w);
                    v = momentum * v + g;
                    let rate = f64::from(head.learning_rate) * f64::from(rate(step));
                    w -= rate * if nesterov { g + momentum * v } else { v };
                }
                let [a, b, c, d] = skipped.product(index, from, until);
                for (found, expected) in [(a - 2.0 * b, w), (c - 2.0 * d, v)] {
                    assert!((found - expected).abs() <= 1e-13 * expected.abs() + 1e-15, "{found} {expected}");
                }
                // One step more is another product.
                assert!(until == n || skipped.product(index, from, until + 1) != [a, b, c, d]);
            }
        }
        skipped.clear();
        skipped.push(&heads, 1.0);
        assert_eq!(skipped.product(1, 0, 1), of_step(&heads[1], 1.0));
    }
}
