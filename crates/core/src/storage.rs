//! Persistent volumes, persistent volume claims and storage classes: list rows.

use std::collections::BTreeMap;

use crate::{quantity, rows::Cell};

mod claim;
mod class;
mod volume;

pub use claim::{ClaimObject, ClaimRow};
pub use class::{StorageClassObject, StorageClassRow};
pub use volume::{VolumeObject, VolumeRow};

type Quantities = BTreeMap<String, String>;

/// Sort key of a quantity of bytes.
fn bytes(quantity: &Option<String>) -> Cell {
    quantity.as_deref().and_then(quantity::parse).map_or(Cell::Null, Cell::Number)
}
