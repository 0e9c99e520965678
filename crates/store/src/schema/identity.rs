//! Tables of users, service accounts, their sessions and tokens, and of identity providers.

use super::Instant;

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Bool, Nullable, Text};

    users (id) {
        id -> BigInt,
        username -> Text,
        display_name -> Text,
        password -> Nullable<Text>,
        provider -> Nullable<Text>,
        subject -> Nullable<Text>,
        group_names -> Nullable<Text>,
        role -> Text,
        disabled -> Bool,
        created_at -> Instant,
        updated_at -> Instant,
        last_login_at -> Nullable<Instant>,
        confirmed_at -> Nullable<Instant>,
        visited_at -> Nullable<Instant>,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Nullable, Text};

    service_accounts (id) {
        id -> BigInt,
        name -> Text,
        description -> Text,
        owner_user_id -> Nullable<BigInt>,
        created_at -> Instant,
        created_by -> Text,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Binary, Nullable, Text};

    api_tokens (id) {
        id -> BigInt,
        hash -> Binary,
        name -> Text,
        prefix -> Text,
        user_id -> Nullable<BigInt>,
        service_account_id -> Nullable<BigInt>,
        ceiling -> Text,
        networks -> Text,
        created_at -> Instant,
        expires_at -> Instant,
        last_used_at -> Nullable<Instant>,
        last_used_ip -> Nullable<Text>,
        revoked_at -> Nullable<Instant>,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Binary, Nullable, Text};

    second_factors (user_id) {
        user_id -> BigInt,
        uuid -> Text,
        seed -> Binary,
        created_at -> Instant,
        confirmed_at -> Nullable<Instant>,
        last_step -> Nullable<BigInt>,
    }
}

diesel::table! {
    use diesel::sql_types::{BigInt, Binary};

    recovery_codes (user_id, hash) {
        user_id -> BigInt,
        hash -> Binary,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Nullable, Text};

    break_glass (id) {
        id -> BigInt,
        user_id -> BigInt,
        username -> Text,
        cluster_id -> BigInt,
        reason -> Text,
        grant_id -> BigInt,
        created_at -> Instant,
        ends_at -> Instant,
        reviewed_at -> Nullable<Instant>,
        reviewed_by -> Nullable<Text>,
        review_note -> Nullable<Text>,
    }
}

diesel::table! {
    use diesel::sql_types::Text;

    identity_providers (id) {
        id -> Text,
        kind -> Text,
        authority -> Text,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{Binary, Nullable, Text};

    oidc_logins (state) {
        state -> Binary,
        provider -> Text,
        browser -> Binary,
        target -> Text,
        address -> Nullable<Text>,
        created_at -> Instant,
        expires_at -> Instant,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{Binary, Text};

    logout_tokens (provider, jti) {
        provider -> Text,
        jti -> Binary,
        expires_at -> Instant,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Binary, Nullable, Text};

    sessions (id) {
        id -> BigInt,
        cookie -> Binary,
        user_id -> BigInt,
        generation -> BigInt,
        source_ip -> Nullable<Text>,
        user_agent -> Nullable<Text>,
        created_at -> Instant,
        last_seen_at -> Instant,
        expires_at -> Instant,
        authenticated_at -> Instant,
        factor_at -> Nullable<Instant>,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Binary, Nullable};

    refresh_tokens (hash) {
        hash -> Binary,
        session_id -> BigInt,
        used_at -> Nullable<Instant>,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Binary, Nullable, Text};

    provider_sessions (session_id) {
        session_id -> BigInt,
        uuid -> Text,
        provider -> Text,
        sid -> Nullable<Text>,
        refresh_token -> Nullable<Binary>,
        visited_at -> Instant,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Nullable, Text};

    throttles (key) {
        key -> Text,
        failures -> BigInt,
        window_start -> Nullable<Instant>,
        blocked_until -> Nullable<Instant>,
        refused_minute -> BigInt,
        refused_count -> BigInt,
        updated_at -> Instant,
    }
}

diesel::table! {
    use super::Instant;
    use diesel::sql_types::{BigInt, Text};

    login_addresses (user_id, address) {
        user_id -> BigInt,
        address -> Text,
        last_login_at -> Instant,
    }
}

diesel::joinable!(sessions -> users (user_id));
diesel::joinable!(login_addresses -> users (user_id));
diesel::joinable!(provider_sessions -> sessions (session_id));
diesel::allow_tables_to_appear_in_same_query!(provider_sessions, sessions, users);
diesel::allow_tables_to_appear_in_same_query!(api_tokens, service_accounts, users);
diesel::allow_tables_to_appear_in_same_query!(second_factors, sessions);
diesel::allow_tables_to_appear_in_same_query!(second_factors, users);
diesel::allow_tables_to_appear_in_same_query!(second_factors, api_tokens);
diesel::allow_tables_to_appear_in_same_query!(second_factors, service_accounts);
diesel::allow_tables_to_appear_in_same_query!(login_addresses, users);
