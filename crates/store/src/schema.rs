//! Table definitions for diesel, shared by both databases, and the SQL type of timestamps. Maintained by hand,
//! because the output of `diesel print-schema` differs between the databases. The contract tests use every table on
//! both.

use diesel::{
    backend::Backend,
    deserialize::{self, FromSql, FromSqlRow},
    expression::AsExpression,
    pg::Pg,
    query_builder::QueryId,
    serialize::{self, IsNull, Output, ToSql},
    sql_types::{BigInt, SqlType},
    sqlite::Sqlite,
};
use jiff::Timestamp;

mod identity;

pub(crate) use identity::{
    api_tokens, break_glass, identity_providers, login_addresses, logout_tokens, oidc_logins,
    provider_sessions, recovery_codes, refresh_tokens, second_factors, service_accounts, sessions, throttles,
    users,
};

/// SQL type of a timestamp in microseconds: TIMESTAMPTZ on PostgreSQL, microseconds since 1970 as INTEGER on SQLite.
/// Each of diesel's own types supports one database only, or is text on SQLite.
#[derive(Clone, Copy, QueryId, SqlType)]
#[diesel(postgres_type(oid = 1184, array_oid = 1185), sqlite_type(name = "Long"))]
pub struct Instant;

/// A [`Timestamp`] as a value of [`Instant`].
#[derive(AsExpression, Clone, Copy, Debug, FromSqlRow)]
#[diesel(sql_type = Instant)]
pub(crate) struct At(pub(crate) Timestamp);

/// The epoch of PostgreSQL (2000-01-01), in microseconds since 1970.
pub(crate) const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

impl ToSql<Instant, Sqlite> for At {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Sqlite>) -> serialize::Result {
        out.set_value(self.0.as_microsecond());
        Ok(IsNull::No)
    }
}

impl ToSql<Instant, Pg> for At {
    fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
        ToSql::<BigInt, Pg>::to_sql(&(self.0.as_microsecond() - POSTGRES_EPOCH), &mut out.reborrow())
    }
}

impl FromSql<Instant, Sqlite> for At {
    fn from_sql(value: <Sqlite as Backend>::RawValue<'_>) -> deserialize::Result<Self> {
        let micros = <i64 as FromSql<BigInt, Sqlite>>::from_sql(value)?;
        Ok(Self(Timestamp::from_microsecond(micros)?))
    }
}

impl FromSql<Instant, Pg> for At {
    fn from_sql(value: <Pg as Backend>::RawValue<'_>) -> deserialize::Result<Self> {
        let micros = <i64 as FromSql<BigInt, Pg>>::from_sql(value)?;
        Ok(Self(Timestamp::from_microsecond(micros.saturating_add(POSTGRES_EPOCH))?))
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Nullable, Text};

    install (id) {
        id -> BigInt,
        fingerprint -> Text,
        next_fingerprint -> Nullable<Text>,
        created_at -> Instant,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Binary, Text};

    audit_log (seq) {
        seq -> BigInt,
        operation_id -> Text,
        entry -> Text,
        at -> Instant,
        body -> Text,
        hash -> Binary,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Binary, Text};

    audit_head (id) {
        id -> BigInt,
        trail -> Text,
        seq -> BigInt,
        hash -> Binary,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Text};

    audit_beginning (id) {
        id -> BigInt,
        seq -> BigInt,
        line -> Text,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Text};

    audit_checkpoints (seq) {
        seq -> BigInt,
        line -> Text,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Text};

    audit_handovers (seq) {
        seq -> BigInt,
        line -> Text,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Text};

    audit_receivers (name) {
        name -> Text,
        seq -> BigInt,
        checkpoint_seq -> BigInt,
        instance -> Text,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Nullable, Text};

    operations (id) {
        id -> BigInt,
        operation_id -> Text,
        instance -> Text,
        operation_type -> Text,
        resource_type -> Text,
        cluster_id -> Nullable<BigInt>,
        cluster_name -> Nullable<Text>,
        namespace -> Nullable<Text>,
        resource_name -> Nullable<Text>,
        searched -> Text,
        user_id -> Nullable<BigInt>,
        username -> Text,
        role -> Nullable<Text>,
        grant_id -> Nullable<BigInt>,
        token_id -> Nullable<BigInt>,
        reason -> Nullable<Text>,
        source_ip -> Nullable<Text>,
        request_id -> Nullable<Text>,
        status -> Text,
        error_code -> Nullable<Text>,
        details -> Nullable<Text>,
        duration_ms -> Nullable<BigInt>,
        created_at -> Instant,
        finished_at -> Nullable<Instant>,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{Nullable, Text};

    leases (instance) {
        instance -> Text,
        expires_at -> Instant,
        next_fingerprint -> Nullable<Text>,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{Nullable, Text};

    roles (name) {
        name -> Text,
        description -> Text,
        rules -> Text,
        created_at -> Instant,
        created_by -> Text,
        updated_at -> Instant,
        deleted_at -> Nullable<Instant>,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Nullable, Text};

    grants (id) {
        id -> BigInt,
        subject -> Text,
        role -> Text,
        clusters -> Text,
        namespaces -> Text,
        starts_at -> Instant,
        ends_at -> Nullable<Instant>,
        reason -> Nullable<Text>,
        source -> Text,
        created_at -> Instant,
        created_by -> Text,
        revoked_at -> Nullable<Instant>,
        revoked_by -> Nullable<Text>,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Nullable, Text};

    grant_requests (id) {
        id -> BigInt,
        user_id -> BigInt,
        username -> Text,
        role -> Text,
        clusters -> Text,
        namespaces -> Text,
        duration_seconds -> BigInt,
        reason -> Text,
        status -> Text,
        created_at -> Instant,
        decided_at -> Nullable<Instant>,
        decided_by -> Nullable<Text>,
        decision_reason -> Nullable<Text>,
        grant_id -> Nullable<BigInt>,
    }
}

diesel::table! {
    use diesel::sql_types::BigInt;

    rights_stamp (id) {
        id -> BigInt,
        stamp -> BigInt,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{Binary, Nullable, Text};

    idempotency_keys (id) {
        id -> Text,
        subject -> Text,
        key -> Text,
        instance -> Nullable<Text>,
        request -> Binary,
        request_id -> Nullable<Text>,
        reply -> Nullable<Binary>,
        expires_at -> Instant,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text};

    clusters (id) {
        id -> BigInt,
        uuid -> Text,
        name -> Text,
        name_key -> Text,
        description -> Text,
        labels -> Text,
        auth_type -> Text,
        api_server -> Text,
        ca -> Nullable<Text>,
        tls_server_name -> Nullable<Text>,
        insecure_skip_tls_verify -> Bool,
        credential -> Binary,
        connection_version -> BigInt,
        status -> Text,
        status_reason -> Nullable<Text>,
        version -> Nullable<Text>,
        node_count -> Nullable<BigInt>,
        pod_count -> Nullable<BigInt>,
        namespace_count -> Nullable<BigInt>,
        created_at -> Instant,
        updated_at -> Instant,
        last_connected_at -> Nullable<Instant>,
        visited_at -> Instant,
    }
}

diesel::allow_tables_to_appear_in_same_query!(rights_stamp, users);
diesel::allow_tables_to_appear_in_same_query!(rights_stamp, sessions);
diesel::allow_tables_to_appear_in_same_query!(rights_stamp, second_factors);
diesel::allow_tables_to_appear_in_same_query!(rights_stamp, api_tokens);
diesel::allow_tables_to_appear_in_same_query!(rights_stamp, service_accounts);
diesel::allow_tables_to_appear_in_same_query!(operations, leases);
diesel::allow_tables_to_appear_in_same_query!(operations, audit_log);
diesel::allow_tables_to_appear_in_same_query!(audit_receivers, leases);
