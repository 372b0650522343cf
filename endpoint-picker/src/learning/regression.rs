//! Linear regression by weighted least squares over samples that fade, with coefficients that are never negative.

/// Coefficients are solved for anew when such a part of the samples is new: with each of the first 16, then with every sixth of an
/// endpoint's and every thirty-first of a pool's. Solving with each took a fifth of the instructions of a short request.
const DUE_PART: f64 = 1.0 / 16.0;

/// Sums over samples from which coefficients are solved: `squares` is the sum of `w·x·xᵀ`, `products` the sum of `w·x·y`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Sums<const N: usize> {
    squares: [[f64; N]; N],
    products: [f64; N],
    /// Samples, faded like the sums.
    count: f64,
    /// Samples that came since [`Self::is_due`] said so.
    unsolved: f64,
}

impl<const N: usize> Sums<N> {
    pub(super) const EMPTY: Self = Self { squares: [[0.0; N]; N], products: [0.0; N], count: 0.0, unsolved: 0.0 };
}

impl<const N: usize> Default for Sums<N> {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl<const N: usize> Sums<N> {
    /// Samples that the sums still hold.
    pub(super) const fn count(&self) -> f64 {
        self.count
    }

    /// Multiplies all by `kept`, then adds one sample.
    pub(super) fn add(&mut self, x: &[f64; N], y: f64, weight: f64, kept: f64) {
        for ((row, product), &left) in self.squares.iter_mut().zip(&mut self.products).zip(x) {
            for (sum, &right) in row.iter_mut().zip(x) {
                *sum = *sum * kept + weight * left * right;
            }
            *product = *product * kept + weight * left * y;
        }
        self.count = self.count * kept + 1.0;
        self.unsolved += 1.0;
    }

    /// Whether so many samples came that coefficients should be solved for anew, which counts as done then.
    pub(super) fn is_due(&mut self) -> bool {
        let is_due = self.unsolved >= self.count * DUE_PART;
        if is_due {
            self.unsolved = 0.0;
        }
        is_due
    }

    /// Adds what `other` says about coefficients near `about`, as if it had seen `samples` samples in all.
    pub(super) fn add_about(&mut self, other: &Self, about: &[f64; N], samples: f64) {
        if other.count <= 0.0 {
            return;
        }
        let share = samples / other.count;
        for ((row, product), others) in self.squares.iter_mut().zip(&mut self.products).zip(&other.squares) {
            for ((sum, &square), &coefficient) in row.iter_mut().zip(others).zip(about) {
                *sum += share * square;
                *product += share * square * coefficient;
            }
        }
    }

    /// Adds the belief that each coefficient is `about`, each as sure as a sample of that weight.
    pub(super) fn add_belief(&mut self, about: &[f64; N], weights: &[f64; N]) {
        let rows = self.squares.iter_mut().zip(&mut self.products).enumerate();
        for (place, (row, product)) in rows {
            let (Some(diagonal), Some(&weight), Some(&about)) =
                (row.get_mut(place), weights.get(place), about.get(place))
            else {
                continue;
            };
            *diagonal += weight;
            *product += weight * about;
        }
    }

    /// The coefficients with the least error of which none is negative: those that would be are taken out, the worst one first.
    pub(super) fn solve(&self) -> Option<[f64; N]> {
        let mut is_out = [false; N];
        loop {
            let solution = self.solve_without(&is_out)?;
            let worst = solution.iter().enumerate().min_by(|(_, left), (_, right)| left.total_cmp(right));
            match worst {
                Some((place, &value)) if value < 0.0 => *is_out.get_mut(place)? = true,
                _ => return Some(solution),
            }
        }
    }

    /// Gaussian elimination; coefficients that are out are 0. `None` where the sums do not determine the rest.
    fn solve_without(&self, is_out: &[bool; N]) -> Option<[f64; N]> {
        let (mut rows, mut right) = (self.squares, self.products);
        // A matrix of sums of squares needs no pivoting.
        for (pivot, _) in is_out.iter().enumerate().filter(|(_, out)| !**out) {
            let (above, below) = rows.split_at_mut(pivot + 1);
            let pivot_row = above.get(pivot)?;
            let diagonal = *pivot_row.get(pivot)?;
            if diagonal <= f64::MIN_POSITIVE || !diagonal.is_finite() {
                return None;
            }
            let pivot_right = *right.get(pivot)?;
            let below = below.iter_mut().zip(right.iter_mut().zip(is_out).skip(pivot + 1));
            for (row, (right, _)) in below.filter(|(_, (_, out))| !**out) {
                let factor = *row.get(pivot)? / diagonal;
                // What lies left of it is not read again.
                for (value, &above) in row.iter_mut().zip(pivot_row).skip(pivot + 1) {
                    *value -= factor * above;
                }
                *right -= factor * pivot_right;
            }
        }
        let mut solution = [0.0; N];
        for (place, _) in is_out.iter().enumerate().rev().filter(|(_, out)| !**out) {
            let row = rows.get(place)?;
            let known: f64 = row.iter().zip(&solution).skip(place + 1).map(|(&value, &known)| value * known).sum();
            let value = (*right.get(place)? - known) / *row.get(place)?;
            *solution.get_mut(place)? = if value.is_finite() { value } else { return None };
        }
        Some(solution)
    }
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::*;

    fn near(left: [f64; 3], right: [f64; 3]) -> bool {
        left.iter().zip(right).all(|(left, right)| (left - right).abs() < 1e-6 * (1.0 + right.abs()))
    }

    #[test]
    fn exact_samples_give_exact_coefficients() {
        let mut sums = Sums::<3>::default();
        for (a, b) in [(1.0, 2.0), (3.0, 1.0), (0.0, 5.0), (4.0, 4.0)] {
            sums.add(&[1.0, a, b], 7.0 + 2.0 * a + 0.5 * b, 1.0, 1.0);
        }
        assert!(near(sums.solve().unwrap(), [7.0, 2.0, 0.5]));
        assert_eq!(sums.count(), 4.0);
    }

    #[test]
    fn no_coefficient_is_negative() {
        let mut sums = Sums::<3>::default();
        for (a, b) in [(1.0, 2.0), (3.0, 1.0), (0.0, 5.0), (4.0, 4.0)] {
            sums.add(&[1.0, a, b], 7.0 + 2.0 * a - 0.5 * b, 1.0, 1.0);
        }
        let solved = sums.solve().unwrap();
        assert!(solved.iter().all(|&value| value >= 0.0), "{solved:?}");
        assert_eq!(solved[2], 0.0);
    }

    #[test]
    fn sums_that_say_nothing_have_no_solution_and_beliefs_fill_the_gap() {
        let mut sums = Sums::<3>::default();
        assert_eq!(sums.solve(), None);
        sums.add(&[1.0, 0.0, 0.0], 7.0, 1.0, 1.0);
        assert_eq!(sums.solve(), None);
        sums.add_belief(&[1.0, 2.0, 3.0], &[1e-9; 3]);
        assert!((sums.solve().unwrap()[0] - 7.0).abs() < 1e-3);
        assert!((sums.solve().unwrap()[2] - 3.0).abs() < 1e-3);
    }

    #[test]
    fn others_count_as_many_samples_as_they_are_given() {
        let (mut others, mut own) = (Sums::<3>::default(), Sums::<3>::default());
        for place in 0..30 {
            let (a, b) = (f64::from(place % 7), f64::from(place % 5));
            others.add(&[1.0, a, b], 10.0 + a + b, 1.0, 1.0);
        }
        let about = others.solve().unwrap();
        own.add_about(&others, &about, 10.0);
        assert!(near(own.solve().unwrap(), about));
        for place in 0..1_000 {
            let (a, b) = (f64::from(place % 7), f64::from(place % 5));
            own.add(&[1.0, a, b], 20.0 + 2.0 * a + 2.0 * b, 1.0, 1.0);
        }
        assert!((own.solve().unwrap()[0] - 20.0).abs() < 0.2);
    }

    #[test]
    fn coefficients_are_due_when_a_part_of_the_samples_is_new() {
        let mut sums = Sums::<3>::default();
        let mut due = [0, 0];
        for place in 0..1_000 {
            sums.add(&[1.0, 0.0, 0.0], 7.0, 1.0, 0.99);
            if let Some(count) = due.get_mut(usize::from(place >= 16)) {
                *count += i32::from(sums.is_due());
            }
        }
        // A hundred samples are held in the end: six or seven new ones are a sixteenth of them.
        assert_eq!(due[0], 16);
        assert!((984 / 7..984 / 4).contains(&due[1]), "{due:?}");
    }

    #[test]
    fn old_samples_fade() {
        let mut sums = Sums::<3>::default();
        for place in 0..400 {
            let (a, b) = (f64::from(place % 7), f64::from(place % 5));
            let slope = if place < 200 { 1.0 } else { 3.0 };
            sums.add(&[1.0, a, b], slope * (1.0 + a + b), 1.0, 0.95);
        }
        assert!(near(sums.solve().unwrap(), [3.0, 3.0, 3.0]) || (sums.solve().unwrap()[1] - 3.0).abs() < 0.01);
    }
}
