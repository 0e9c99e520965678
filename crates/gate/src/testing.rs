//! Test support: permits without authorisation, for tests of adapters. The mocks (`MockAuditWriter` and others) are next
//! to each port.

use std::sync::Arc;

use pilothouse_types::{error::Result, testing::FakeRuntime};

use crate::{
    access::{AccessRequest, Caller, Permit},
    gate::{Gate, MockClusterNames},
    operation::MockAuditWriter,
};

/// Creates a permit with its operation, without authorisation, for the whole request and all its related kinds.
pub fn permit(caller: &Caller, access: AccessRequest) -> Permit {
    permit_with(FakeRuntime::default(), caller, access)
}

/// As [`permit`], with the operation's id and time from this runtime.
pub fn permit_with(runtime: FakeRuntime, caller: &Caller, access: AccessRequest) -> Permit {
    let operation = gate(runtime).operation(caller, &access, None);
    Permit::of_server(access, Some(operation))
}

/// Creates a permit with its operation, as the gate does: for what the caller's rights reach.
///
/// # Errors
/// As [`Caller::judge`].
pub fn judged_permit(caller: &Caller, access: AccessRequest) -> Result<Permit> {
    let allowed = caller.judge(&access)?;
    let access = AccessRequest { namespaces: allowed.namespaces.clone(), ..access };
    let operation = gate(FakeRuntime::default()).operation(caller, &access, allowed.grant_id());
    Ok(Permit::new(access, allowed, Some(operation)))
}

/// A gate whose ports expect no call.
pub(crate) fn gate(FakeRuntime { clock, rng, spawner }: FakeRuntime) -> Gate {
    Gate::new(Arc::new(MockAuditWriter::new()), Arc::new(MockClusterNames::new()), clock, rng, spawner)
}
