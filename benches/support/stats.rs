//! Medians and their spread.

use std::fmt;

/// The median of some figures, with the least and the greatest of them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Summary {
    /// `None` of no figures. The median of an even count is the mean of the middle two.
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Option<Summary> {
        let mut sorted: Vec<f64> = figures.into_iter().collect();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let upper = sorted.len() / 2;
        let lower = (sorted.len() - 1) / 2;
        Some(Summary {
            median: (sorted[lower] + sorted[upper]) / 2.0,
            min,
            max,
        })
    }

    /// The ratios `a / b` of pairs that were measured in the same round: what disturbs a whole
    /// round disturbs both figures, and leaves their ratio alone.
    pub fn of_ratios(pairs: impl IntoIterator<Item = (f64, f64)>) -> Option<Summary> {
        Summary::of(pairs.into_iter().map(|(a, b)| a / b))
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = f.precision().unwrap_or(2);
        let Summary { median, min, max } = self;
        write!(f, "{median:.digits$} [{min:.digits$}, {max:.digits$}]")
    }
}
