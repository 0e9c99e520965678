//! Diagnosis of an object: why it does not work, by rules over its status, its events and the objects that belong to it
//! (contract-next.md, section 10; day2.md, section 9).

mod finding;
mod quote;
mod rule;
mod step;

pub use finding::{Facts, Finding, ObjectRef};
pub use quote::{MAX_QUOTE_CHARS, Quote, clean};
pub use rule::{Rule, Variant};
pub use step::{Action, Step, SuggestedCall};
