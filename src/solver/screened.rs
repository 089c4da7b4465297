//! The model of `proximal` for so many features that G is diagonal: most coordinates are 0 and stay 0, and are left out.
//!
//! In an iteration a coordinate takes part that is not 0, or whose derivative is above [`SCREENED`] times l1; the derivative of the
//! others would have to grow in this one iteration to move them, and they may take part in the next. Those that do lie together,
//! feature after feature: B₀ couples the classes of a feature, and only the pairs couple features. Steps are kept sparse.

use nalgebra::DMatrix;

use super::vector::{dot, is_positive};

/// See above.
const SCREENED: f64 = 0.9;
/// As in `proximal`: sweeps of the coordinate descent over all coordinates, and over those that are not zero after each of these;
/// and the share of the first change of a sweep that ends them.
const SWEEPS: usize = 10;
const SWEEPS_OF_NONZERO: usize = 30;
const LAST_SWEEP: f64 = 1e-3;

/// Some coordinates: features, the last of which is the intercept, and the classes of each.
#[derive(Default)]
struct Places {
    /// Feature, and where its classes end.
    features: Vec<(usize, usize)>,
    classes: Vec<usize>,
}

impl Places {
    fn new(d: usize, q: usize, is_in: impl Fn(usize, usize) -> bool) -> Self {
        let mut places = Self::default();
        for k in 0..=d {
            let n_before = places.classes.len();
            places.classes.extend((0..q).filter(|&class| is_in(k, class)));
            if places.classes.len() > n_before {
                places.features.push((k, places.classes.len()));
            }
        }
        places
    }

    /// Each feature with its places, and their classes.
    fn iter(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
        let begins = [0].into_iter().chain(self.features.iter().map(|&(_, end)| end));
        self.features.iter().zip(begins).map(|(&(k, end), begin)| (k, begin..end))
    }

    /// What is there of values laid out as the parameters.
    fn gather(&self, values: &[f64], q: usize) -> Vec<f64> {
        self.iter()
            .flat_map(|(k, places)| self.classes[places].iter().map(move |class| values[k * q + class]))
            .collect()
    }
}

/// A step, and the change of the gradient with it, laid out as the parameters.
struct Pair {
    places: Places,
    step: Vec<f64>,
    change: Vec<f64>,
    /// The products of the step with the changes of the pairs before it and, last, its own.
    products: Vec<f64>,
}

/// The same as of long vectors, without their care for threads.
fn dot_of_few(a: &[f64], b: &[f64]) -> f64 {
    let (mut sums, (a, a_rest), (b, b_rest)) = ([0.0; 4], a.as_chunks::<4>(), b.as_chunks::<4>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..4 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f64>() + a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum::<f64>()
}

fn add_few(y: &mut [f64], a: f64, x: &[f64]) {
    y.iter_mut().zip(x).for_each(|(y, x)| *y += a * x);
}

/// B = B₀ − Q·M⁻¹·Qᵀ, B₀ = A ⊗ G + diag(l2), Q = (B₀·S, Y).
pub(super) struct Screened {
    d: usize,
    q: usize,
    /// The diagonal of G, and l2 of each feature, (d + 1): of the intercept 1 and 0.
    gram: Vec<f64>,
    l2: Vec<f64>,
    /// A, (q × q), or its diagonal, (q).
    pub classes: Vec<f64>,
    /// The oldest first.
    pairs: Vec<Pair>,
    most_pairs: usize,
}

impl Screened {
    pub fn new(mut gram: Vec<f64>, mut l2: Vec<f64>, classes: Vec<f64>, q: usize, most_pairs: usize) -> Self {
        let d = gram.len();
        gram.push(1.0);
        l2.push(0.0);
        Self { d, q, gram, l2, classes, pairs: Vec::new(), most_pairs }
    }

    pub fn has_pairs(&self) -> bool {
        !self.pairs.is_empty()
    }

    pub fn forget(&mut self) {
        self.pairs.clear();
    }

    /// Takes a step and the change of the gradient with it, unless rounding has left nothing of its curvature.
    pub fn push(&mut self, step: &[f64], change: Vec<f64>) {
        let product = dot(step, &change);
        if is_positive(product, step, &change) {
            if self.pairs.len() == self.most_pairs {
                self.pairs.remove(0);
                for pair in &mut self.pairs {
                    pair.products.remove(0);
                }
            }
            let places = Places::new(self.d, self.q, |k, class| step[k * self.q + class] != 0.0);
            let step = places.gather(step, self.q);
            let changes = self.pairs.iter().map(|pair| &pair.change).chain([&change]);
            let products = changes.map(|change| dot(&step, &places.gather(change, self.q))).collect();
            self.pairs.push(Pair { places, step, change, products });
        }
    }

    /// Adds row `class` of A, which is symmetric, times a number, of some classes.
    fn add_class_row(&self, class: usize, classes: &[usize], factor: f64, to: &mut [f64]) {
        let places = classes.iter().zip(to);
        if self.classes.len() == self.q {
            places.filter(|(other, _)| **other == class).for_each(|(_, to)| *to += factor * self.classes[class]);
        } else {
            let row = &self.classes[class * self.q..][..self.q];
            places.for_each(|(&other, to)| *to += factor * row[other]);
        }
    }

    fn class_diagonal(&self, class: usize) -> f64 {
        if self.classes.len() == self.q { self.classes[class] } else { self.classes[class * (self.q + 1)] }
    }

    /// Calls `each` with each feature of a step and B₀ times it, (q).
    fn first_times(&self, pair: &Pair, mut each: impl FnMut(usize, &[f64])) {
        let all: Vec<usize> = (0..self.q).collect();
        let mut product = vec![0.0; self.q];
        for (k, places) in pair.places.iter() {
            product.fill(0.0);
            for (&class, value) in pair.places.classes[places.clone()].iter().zip(&pair.step[places]) {
                self.add_class_row(class, &all, self.gram[k] * value, &mut product);
                product[class] += self.l2[k] * value;
            }
            each(k, &product);
        }
    }

    /// Rows of Q at these places, (places × 2·pairs), and of Q·M⁻¹.
    fn rows(&mut self, places: &Places) -> (Vec<f64>, Vec<f64>) {
        let (m, q) = (self.pairs.len(), self.q);
        let mut rows = vec![0.0; places.classes.len() * 2 * m];
        let mut middle = DMatrix::<f64>::zeros(2 * m, 2 * m);
        for (j, pair) in self.pairs.iter().enumerate() {
            let mut others: Vec<_> = self.pairs[..=j].iter().map(|other| other.places.iter().peekable()).collect();
            let mut at = places.iter().peekable();
            self.first_times(pair, |k, product| {
                // All go through the features in their order.
                while at.next_if(|(other, _)| *other < k).is_some() {}
                if let Some((_, range)) = at.next_if(|(other, _)| *other == k) {
                    for place in range {
                        rows[place * 2 * m + j] = product[places.classes[place]];
                    }
                }
                for (i, (at, other)) in others.iter_mut().zip(&self.pairs).enumerate() {
                    while at.next_if(|(other, _)| *other < k).is_some() {}
                    if let Some((_, range)) = at.next_if(|(other, _)| *other == k) {
                        let values = other.places.classes[range.clone()].iter().zip(&other.step[range]);
                        middle[(i, j)] += values.map(|(&class, value)| product[class] * value).sum::<f64>();
                    }
                }
            });
            for (place, value) in places.gather(&pair.change, q).into_iter().enumerate() {
                rows[place * 2 * m + m + j] = value;
            }
            // L: ⟨s_i, y_j⟩ for i > j, and −D.
            for (i, other) in self.pairs.iter().enumerate().skip(j) {
                let product = other.products[j];
                if i == j {
                    middle[(m + j, m + j)] = -product;
                } else {
                    (middle[(i, m + j)], middle[(m + j, i)]) = (product, product);
                }
            }
        }
        for j in 0..m {
            for i in 0..j {
                middle[(j, i)] = middle[(i, j)];
            }
        }
        let Some(inverse) = middle.try_inverse() else {
            self.pairs.clear();
            return (Vec::new(), Vec::new());
        };
        let mut solved = vec![0.0; rows.len()];
        if m > 0 {
            for (row, solved) in rows.chunks_exact(2 * m).zip(solved.chunks_exact_mut(2 * m)) {
                for (value, column) in row.iter().zip(inverse.as_slice().chunks_exact(2 * m)) {
                    // It is symmetric.
                    solved.iter_mut().zip(column).for_each(|(to, x)| *to += value * x);
                }
            }
        }
        (rows, solved)
    }

    /// The step p that minimises g·p + τ/2·p·B·p + Σ l1·|w + p|, nearly; with p·B·p.
    pub fn minimise(&mut self, g: &[f64], w: &[f64], l1: &[f64], tau: f64) -> (Vec<f64>, f64) {
        let (d, q) = (self.d, self.q);
        let places = Places::new(d, q, |k, class| {
            let i = k * q + class;
            k == d || w[i] != 0.0 || g[i].abs() > SCREENED * l1[k]
        });
        let (rows, solved) = self.rows(&places);
        let m2 = 2 * self.pairs.len();
        let (g, w) = (places.gather(g, q), places.gather(w, q));
        let of_pairs = |place: usize| place * m2..(place + 1) * m2;
        let mut curvatures = vec![0.0; w.len()];
        for (k, range) in places.iter() {
            for place in range {
                let class = places.classes[place];
                // Something must be there to divide by.
                let diagonal = (self.class_diagonal(class) * self.gram[k] + self.l2[k]).max(f64::MIN_POSITIVE);
                let lowered = dot_of_few(&rows[of_pairs(place)], &solved[of_pairs(place)]);
                curvatures[place] = tau * (diagonal - lowered).max(1e-3 * diagonal);
            }
        }
        let mut p = vec![0.0; w.len()];
        // A·p of the classes of each feature, and (Q·M⁻¹)ᵀ·p. Most coordinates are looked at and do not move.
        let mut coupled = vec![0.0; w.len()];
        let mut corrections = vec![0.0; m2];
        let mut first_change = None;
        'all: for _ in 0..SWEEPS {
            for sweep in 0..=SWEEPS_OF_NONZERO {
                let mut change = 0.0;
                for (k, range) in places.iter() {
                    let (l1, l2) = (l1.get(k).copied().unwrap_or(0.0), self.l2[k]);
                    for place in range.clone() {
                        let x = w[place] + p[place];
                        if sweep > 0 && x == 0.0 {
                            continue;
                        }
                        let lowered = dot_of_few(&rows[of_pairs(place)], &corrections);
                        let slope = g[place] + tau * (self.gram[k] * coupled[place] + l2 * p[place] - lowered);
                        let curvature = curvatures[place];
                        let aim = x - slope / curvature;
                        let new = if aim.abs() <= l1 / curvature { 0.0 } else { aim - aim.signum() * l1 / curvature };
                        let step = new - x;
                        if step == 0.0 || !step.is_finite() {
                            continue;
                        }
                        p[place] = if new == 0.0 { -w[place] } else { p[place] + step };
                        let classes = &places.classes[range.clone()];
                        self.add_class_row(places.classes[place], classes, step, &mut coupled[range.clone()]);
                        add_few(&mut corrections, step, &solved[of_pairs(place)]);
                        change += step * step * curvature;
                    }
                }
                let first = *first_change.get_or_insert(change);
                if change <= LAST_SWEEP * LAST_SWEEP * first {
                    if sweep == 0 {
                        break 'all;
                    }
                    break;
                }
            }
        }
        let mut direction = vec![0.0; (d + 1) * q];
        let mut curvature = 0.0;
        let mut corrected = vec![0.0; m2];
        for (k, range) in places.iter() {
            for place in range {
                let step = p[place];
                curvature += step * (self.gram[k] * coupled[place] + self.l2[k] * step);
                add_few(&mut corrected, step, &rows[of_pairs(place)]);
                direction[k * q + places.classes[place]] = step;
            }
        }
        (direction, curvature - dot(&corrected, &corrections))
    }
}
