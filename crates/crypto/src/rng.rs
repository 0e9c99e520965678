//! Random source of the operating system.

use pilothouse_core::rng::Rng;

/// Random numbers from the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRng;

impl Rng for SystemRng {
    /// # Panics
    /// When the operating system provides no random bytes. No caller can continue without them.
    fn fill(&self, buffer: &mut [u8]) {
        getrandom::fill(buffer).expect("the operating system has no randomness");
    }
}
