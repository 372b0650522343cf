//! What a page must show, and samples from which a histogram's figures follow.

use local_stack::Page;

/// A number on a page: the sum over all series of a name with at least these labels.
#[derive(Clone, Debug)]
pub struct Figure {
    name: String,
    labels: Vec<(String, String)>,
    expected: f64,
}

/// One figure. Counts, tokens and bytes are whole numbers far below 2^53, so they are compared exactly.
#[must_use]
pub fn figure(name: &str, labels: &[(&str, &str)], expected: u64) -> Figure {
    let labels = labels.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect();
    Figure { name: name.to_owned(), labels, expected: expected as f64 }
}

/// A line for each figure that the page does not show.
pub(crate) fn disagreements(page: &Page, figures: &[Figure]) -> Vec<String> {
    let mut wrong = Vec::new();
    for Figure { name, labels, expected } in figures {
        let labels: Vec<(&str, &str)> = labels.iter().map(|(label, value)| (label.as_str(), value.as_str())).collect();
        let found = page.sum(name, &labels);
        if found != *expected {
            wrong.push(format!("{name} {labels:?} is {found}, expected {expected}"));
        }
    }
    wrong
}

/// Samples of a histogram as the test saw them.
#[derive(Clone, Debug, Default)]
pub struct Samples(pub Vec<u64>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: u64) {
        self.0.push(sample);
    }

    /// Every figure of the histogram: count, sum and each bucket of `bounds`, which are `le` strings.
    #[must_use]
    pub fn figures(&self, family: &str, labels: &[(&str, &str)], bounds: &[&str]) -> Vec<Figure> {
        let mut figures = self.count(family, labels);
        figures.push(figure(&format!("{family}_sum"), labels, self.0.iter().sum()));
        for bound in bounds {
            let limit: f64 = bound.parse().unwrap();
            let below = self.0.iter().filter(|sample| **sample as f64 <= limit).count();
            let labels: Vec<(&str, &str)> = labels.iter().copied().chain([("le", *bound)]).collect();
            figures.push(figure(&format!("{family}_bucket"), &labels, below as u64));
        }
        figures
    }

    /// The figures that depend on how many samples there are and not on their values.
    #[must_use]
    pub fn count(&self, family: &str, labels: &[(&str, &str)]) -> Vec<Figure> {
        let count = self.0.len() as u64;
        let all: Vec<(&str, &str)> = labels.iter().copied().chain([("le", "+Inf")]).collect();
        vec![figure(&format!("{family}_count"), labels, count), figure(&format!("{family}_bucket"), &all, count)]
    }
}
