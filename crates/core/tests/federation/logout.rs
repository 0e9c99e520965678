//! The end of sessions: logout here, and logout tokens of the provider.

use std::{future::poll_fn, sync::atomic::Ordering, task::Poll};

use futures_executor::block_on;
use futures_util::future::select;
use pilothouse_core::{Cause, access::Origin, session::Tokens};
use secrecy::ExposeSecret;

use crate::{Fixture, PASSWORD, cause};

#[test]
fn backchannel_logout_ends_the_session_at_once_and_is_used_once() {
    let fixture = Fixture::new();
    let federation = &fixture.app.federation;
    let logout = |token: &str| block_on(federation.backchannel_logout("corp", token, &Origin::default()));
    let tokens = fixture.sign_in();
    assert_eq!(cause(logout("forged")), Cause::InvalidInput);
    logout("end sid-2").unwrap();
    assert!(fixture.is_live(&tokens), "another session");
    logout("end sid-1").unwrap();
    assert_eq!(cause(fixture.signed_in(&tokens)), Cause::SessionEnded);
    assert_eq!(cause(logout("end sid-1")), Cause::InvalidInput, "used before");
    let refused = block_on(federation.backchannel_logout("dir", "end sid-1", &Origin::default()));
    assert_eq!(cause(refused), Cause::NotFound);
}

#[test]
fn logout_token_is_not_used_up_when_the_sessions_do_not_end() {
    let fixture = Fixture::new();
    let federation = &fixture.app.federation;
    let logout = || block_on(federation.backchannel_logout("corp", "end sid-1", &Origin::default()));
    let tokens = fixture.sign_in();
    fixture.fake.store.fail_audit_writes(true);
    assert_eq!(cause(logout()), Cause::AuditUnavailable);
    assert!(fixture.is_live(&tokens));
    fixture.fake.store.fail_audit_writes(false);
    logout().unwrap();
    assert!(!fixture.is_live(&tokens));
}

#[test]
fn sign_out_leads_to_the_provider() {
    let fixture = Fixture::new();
    let logout = |tokens: &Tokens| {
        block_on(fixture.app.federation.logout(tokens.session_id.expose_secret(), Origin::default())).unwrap()
    };
    assert_eq!(logout(&fixture.sign_in()).as_deref(), Some("https://id.example.com/end"));
    assert_eq!(logout(&fixture.ldap_login("mei", PASSWORD).unwrap()), None);
}

#[test]
fn sign_out_waits_for_no_provider() {
    let fixture = Fixture::new();
    let tokens = [(); 2].map(|()| fixture.sign_in());
    fixture.oidc.hangs.store(true, Ordering::Relaxed);
    let [logout, abandoned] = tokens.each_ref().map(|tokens| {
        let cookie = tokens.session_id.expose_secret();
        Box::pin(fixture.app.federation.logout(cookie, Origin::default()))
    });
    assert_eq!(block_on(logout).unwrap(), None);
    assert!(!fixture.is_live(&tokens[0]));

    // a client that disconnects while the provider is asked
    fixture.oidc.asked();
    let is_asked = poll_fn(|context| {
        if fixture.oidc.asked().is_empty() {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    });
    drop(block_on(select(abandoned, is_asked)));
    assert!(!fixture.is_live(&tokens[1]));
}
