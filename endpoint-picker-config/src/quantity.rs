//! Quantities as Kubernetes writes them (`resource.Quantity`): `100`, `1k`, `1.5Gi`, `500M`, `1e3`.

/// What a suffix multiplies by.
const SUFFIXES: [(&str, f64); 15] = [
    ("", 1.0),
    ("n", 1e-9),
    ("u", 1e-6),
    ("m", 1e-3),
    ("k", 1e3),
    ("M", 1e6),
    ("G", 1e9),
    ("T", 1e12),
    ("P", 1e15),
    ("E", 1e18),
    ("Ki", 1_024.0),
    ("Mi", 1_048_576.0),
    ("Gi", 1_073_741_824.0),
    ("Ti", 1_099_511_627_776.0),
    ("Pi", 1_125_899_906_842_624.0),
];

/// The whole number of a quantity, rounded up as Kubernetes does; `None`: it is none, or negative.
pub(crate) fn whole(text: &str) -> Option<u64> {
    let end = text.find(|letter: char| letter != '.' && letter != '+' && !letter.is_ascii_digit());
    let (number, suffix) = text.split_at(end.unwrap_or(text.len()));
    let scale = match suffix.strip_prefix(['e', 'E']) {
        Some(exponent) if !exponent.is_empty() => 10_f64.powi(exponent.parse().ok()?),
        _ => SUFFIXES.iter().find(|(name, _)| *name == suffix)?.1,
    };
    let value = (number.parse::<f64>().ok()? * scale).ceil();
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "not negative; a cast from a float saturates"
    )]
    Some(value as u64)
}

#[cfg(test)]
mod tests {
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    use super::whole;

    #[test]
    fn quantities_are_as_kubernetes_writes_them() {
        for (text, expected) in [
            ("0", 0),
            ("100", 100),
            ("1k", 1_000),
            ("1.5Gi", 1_610_612_736),
            ("500M", 500_000_000),
            ("1e3", 1_000),
            ("2E", 2_000_000_000_000_000_000),
            ("1500m", 2),
            ("+5", 5),
        ] {
            assert_eq!(whole(text), Some(expected), "{text}");
        }
        for text in ["", "k", "-1", "1 k", "1kk", "1.2.3", "1e", "1ex", "many"] {
            assert_eq!(whole(text), None, "{text}");
        }
    }
}
