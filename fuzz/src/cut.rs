//! Where a text is cut before it is fed.

use endpoint_picker::rng::Rng;

/// The pieces of `text` that `seed` chooses: 0 gives single bytes, every other seed lengths of its own from 0 up to a bound
/// between 1 and 128. The same seed cuts the same text alike, and a text that grows is cut alike at its start.
pub(crate) fn pieces(text: &[u8], seed: u8) -> impl Iterator<Item = &[u8]> {
    let longest = 1 << (seed % 8);
    let mut rng = Rng::new(u64::from(seed));
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let length = if seed == 0 { 1 } else { rng.below(longest + 1) as usize };
        let (piece, behind) = rest.split_at(length.min(rest.len()));
        rest = behind;
        Some(piece)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_the_text_whatever_the_seed() {
        let text: Vec<u8> = (0..=255).collect();
        for seed in 0..=255 {
            assert_eq!(pieces(&text, seed).collect::<Vec<_>>().concat(), text, "{seed}");
        }
        assert_eq!(pieces(&text, 0).count(), text.len());
        assert_ne!(pieces(&text, 9).count(), pieces(&text, 7).count());
    }
}
