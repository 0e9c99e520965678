//! Randomness from the operating system.

use pilothouse_core::clock::Rng;

/// The operating system's randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    /// # Panics
    /// When the system has no randomness. Nothing that asks for some can do without, and a caller can do nothing
    /// about it.
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the operating system has no randomness");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_draws_differ() {
        let mut draws = [[0; 32]; 2];
        draws.iter_mut().for_each(|draw| SystemRng.fill(draw));
        assert_ne!(draws[0], draws[1]);
        assert_ne!(draws[0], [0; 32]);
    }
}
