//! Text without meaning: a function of its seed, so that equal seeds give equal prompts.

use endpoint_picker::rng::Rng;

const LETTERS: &[u8; 32] = b"etaoinshrdlucmfwypvbgkqjxzaeioun";

/// `bytes` bytes of lower-case words; nothing in it needs an escape in JSON.
pub(crate) fn words(seed: u64, bytes: usize) -> String {
    let mut rng = Rng::new(seed);
    let mut text = String::with_capacity(bytes + 12);
    while text.len() < bytes {
        // Twelve letters of five bits, with a space where a letter's two spare bits say so.
        let mut bits = rng.next_u64();
        for _ in 0..12 {
            let letter = LETTERS[(bits & 31) as usize];
            text.push(if bits & 0x1_8000_0000 == 0 { ' ' } else { char::from(letter) });
            bits = bits.rotate_right(5);
        }
    }
    text.truncate(bytes);
    text
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
