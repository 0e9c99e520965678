//! Functions of the gate that do not check the caller's rights: permits for four fixed purposes (a probe, the caller's
//! own session, the first user, a report of an identity provider about its users), and the record of a refused login.
//! All other permits require a check of rights ([`Permit::for_cache`] derives one from a checked permit).

use pilothouse_types::{
    error::{Error, Result},
    ids::ClusterId,
    role::Role,
};

use super::Gate;
use crate::{
    access::{AccessRequest, Caller, Permit, Resource, Verb},
    operation::Outcome,
};

impl Gate {
    /// Issues the permit for a scheduled probe: a read of the state of one registered cluster by the server itself. For
    /// the prober only (`Clusters::refresh` in core).
    pub fn permit_probe(&self, cluster: ClusterId) -> Permit {
        Permit::of_server(AccessRequest::to(Verb::Get, Resource::Cluster).in_cluster(cluster), None)
    }

    /// Issues the permit to open a session of the caller. The port commits the audit entry. For `Sessions` in core
    /// only, after the caller has proved their identity by a password.
    pub fn permit_login(&self, caller: &Caller) -> Permit {
        self.permit_own_session(caller, Verb::Login)
    }

    /// As [`Gate::permit_login`], after the caller has also given a second factor: `totp` or `recovery_code`.
    pub fn permit_login_with_factor(&self, caller: &Caller, factor: &'static str) -> Permit {
        let access = own_session(caller, Verb::Login).with("second_factor", factor);
        let operation = self.operation(caller, &access, None);
        Permit::of_server(access, Some(operation))
    }

    /// Issues the permit to refresh the caller's own session. The port commits the audit entry. For `Sessions` in core
    /// only, after the caller has presented the session's cookie.
    pub fn permit_refresh(&self, caller: &Caller) -> Permit {
        self.permit_own_session(caller, Verb::Refresh)
    }

    /// Issues the permit to end the caller's own session. The port commits the audit entry. For `Sessions` in core
    /// only, after the caller has presented the session's cookie.
    pub fn permit_logout(&self, caller: &Caller) -> Permit {
        self.permit_own_session(caller, Verb::Logout)
    }

    fn permit_own_session(&self, caller: &Caller, verb: Verb) -> Permit {
        let access = own_session(caller, verb);
        let operation = self.operation(caller, &access, None);
        Permit::of_server(access, Some(operation))
    }

    /// Issues the permit to create the first user, by the server itself. The port creates the user only if there is no
    /// user, and commits the audit entry. For `Users::bootstrap` in core only.
    pub fn permit_first_user(&self, username: &str, role: Role) -> Permit {
        let access =
            AccessRequest::to(Verb::Create, Resource::User).named(username).with("role", role.as_str());
        self.permit_of_server(access)
    }

    /// Issues the permit to create the user of a person whom a provider has authenticated. The caller is the server.
    /// The port commits the audit entry if it creates one. For `Federation` in core only.
    pub fn permit_admission(&self, username: &str) -> Permit {
        let access =
            AccessRequest::to(Verb::Create, Resource::User).named(username).with("role", Role::None.as_str());
        self.permit_of_server(access)
    }

    /// Issues the permit to end sessions that their identity provider has ended. The caller is the server. The port
    /// commits the audit entry if it ends any. For `Federation` in core only.
    pub fn permit_withdrawal(&self, name: &str) -> Permit {
        self.permit_of_server(AccessRequest::to(Verb::Revoke, Resource::Session).named(name))
    }

    fn permit_of_server(&self, access: AccessRequest) -> Permit {
        let operation = self.operation(&Caller::system(), &access, None);
        Permit::of_server(access, Some(operation))
    }

    /// Records a login that was refused.
    ///
    /// # Errors
    /// `AuditUnavailable`.
    pub async fn record_refused_login(
        &self,
        caller: &Caller,
        access: &AccessRequest,
        refusal: &Error,
    ) -> Result<()> {
        self.capacity_for(access.verb)?;
        let operation = self.operation(caller, access, None);
        let outcome = Outcome::of::<()>(&Err(refusal.clone()), 0, operation.created_at);
        self.trail.record(&operation, &outcome.with_summary(&operation)).await
    }
}

fn own_session(caller: &Caller, verb: Verb) -> AccessRequest {
    AccessRequest::to(verb, Resource::Session).named(&caller.username)
}

#[cfg(test)]
mod tests {
    use pilothouse_types::testing::FakeRuntime;

    use super::*;
    use crate::testing::gate;

    #[test]
    fn permits_without_a_check_cannot_change_a_cluster() {
        let gate = gate(FakeRuntime::default());
        let probe = gate.permit_probe(ClusterId(1));
        assert!(probe.verb().reads() && probe.kind().is_err() && probe.operation().is_none());
        for permit in [
            gate.permit_login(&Caller::system()),
            gate.permit_login_with_factor(&Caller::system(), "totp"),
            gate.permit_refresh(&Caller::system()),
            gate.permit_logout(&Caller::system()),
            gate.permit_first_user("admin", Role::SuperAdmin),
            gate.permit_admission("corp:mei"),
            gate.permit_withdrawal("corp:mei"),
        ] {
            assert!(permit.cluster().is_err() && permit.kind().is_err() && permit.operation().is_some());
        }
    }
}
