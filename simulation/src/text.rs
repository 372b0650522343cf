//! Text without meaning: a function of its seed, so that equal seeds give equal prompts.

use endpoint_picker::rng::Rng;

/// Letters as often as English has them, more or less, and a space for every sixth.
const LETTERS: &[u8; 64] = b"eeeeeeettttttaaaaaooooiiiinnnnsssshhhrrrddllcumwfgyp            ";

/// `bytes` bytes of lower-case words; nothing in it needs an escape in JSON.
pub(crate) fn words(seed: u64, bytes: usize) -> String {
    let mut rng = Rng::new(seed);
    let mut text = Vec::with_capacity(bytes + 10);
    while text.len() < bytes {
        let bits = rng.next_u64();
        // Ten letters of six bits.
        text.extend_from_slice(&std::array::from_fn::<u8, 10, _>(|letter| {
            LETTERS[(bits >> (6 * letter) & 63) as usize]
        }));
    }
    text.truncate(bytes);
    String::from_utf8(text).unwrap_or_default()
}

/// A seed made of several numbers.
pub(crate) fn seed_of(parts: &[u64]) -> u64 {
    parts.iter().fold(0x5eed, |seed, &part| Rng::new(seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15)).next_u64())
}

/// A number from 0 to 1, 1 excluded.
pub(crate) fn unit(rng: &mut Rng) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// Time between two events of a Poisson process with that mean.
pub(crate) fn exponential(rng: &mut Rng, mean: f64) -> f64 {
    -(1.0 - unit(rng)).ln() * mean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_words_of_that_length() {
        assert_eq!(words(7, 1_003), words(7, 1_003));
        assert!(words(7, 2_000).starts_with(&words(7, 1_003)));
        assert_ne!(words(7, 50), words(8, 50));
        assert_eq!(words(7, 1_003).len(), 1_003);
        assert!(words(7, 1_003).bytes().all(|byte| byte == b' ' || byte.is_ascii_lowercase()));
    }
}
