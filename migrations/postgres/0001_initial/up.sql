-- Ids are never reused (identity columns). Text columns that are sorted compare by code point (COLLATE "C").

CREATE TABLE install (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    fingerprint TEXT NOT NULL,
    -- fingerprint of the next master key while a key rotation runs
    next_fingerprint TEXT,
    created_at TIMESTAMPTZ NOT NULL
);

-- Signed prune marker: the beginning of a trail whose oldest entries were removed by retention. `seq` is the last
-- removed entry.
CREATE TABLE audit_beginning (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    seq BIGINT NOT NULL,
    line TEXT NOT NULL
);

-- Audit entries, a hash chain. Append-only, except that entries up to `audit_beginning.seq` may be deleted.
CREATE TABLE audit_log (
    seq BIGINT PRIMARY KEY,
    operation_id TEXT NOT NULL,
    entry TEXT NOT NULL CHECK (entry IN ('intent', 'outcome', 'complete')),
    at TIMESTAMPTZ NOT NULL,
    body TEXT NOT NULL,
    hash BYTEA NOT NULL
);

CREATE INDEX audit_log_operation ON audit_log (operation_id);

CREATE FUNCTION audit_log_is_only_added_to() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'audit_log is only ever added to'; END $$;

CREATE TRIGGER audit_log_is_never_changed BEFORE UPDATE OR TRUNCATE ON audit_log
FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_only_added_to();

CREATE FUNCTION audit_log_goes_from_its_beginning() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM gone WHERE seq > coalesce((SELECT seq FROM audit_beginning), 0)) THEN
        RAISE EXCEPTION 'audit_log is only ever added to';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER audit_log_is_never_cut AFTER DELETE ON audit_log
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION audit_log_goes_from_its_beginning();

CREATE TABLE audit_head (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    trail TEXT NOT NULL,
    seq BIGINT NOT NULL,
    hash BYTEA NOT NULL
);

INSERT INTO audit_head (id, trail, seq, hash)
VALUES (1, replace(gen_random_uuid()::text, '-', ''), 0, decode(repeat('00', 32), 'hex'));

-- Signed checkpoints of the chain. Append-only, except that checkpoints before `audit_beginning.seq` may be deleted; the
-- checkpoint of that entry, which the prune marker references, stays.
CREATE TABLE audit_checkpoints (
    seq BIGINT PRIMARY KEY,
    line TEXT NOT NULL
);

CREATE TRIGGER audit_checkpoints_are_never_changed BEFORE UPDATE OR TRUNCATE ON audit_checkpoints
FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_only_added_to();

CREATE FUNCTION audit_checkpoints_go_before_the_beginning() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM gone WHERE seq >= coalesce((SELECT seq FROM audit_beginning), 0)) THEN
        RAISE EXCEPTION 'audit_checkpoints is only ever added to';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER audit_checkpoints_are_never_cut AFTER DELETE ON audit_checkpoints
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION audit_checkpoints_go_before_the_beginning();

-- Key rotations of the trail, signed by the new key; `seq` is the number of the `rekey` entry.
CREATE TABLE audit_handovers (
    seq BIGINT PRIMARY KEY,
    line TEXT NOT NULL
);

CREATE TRIGGER audit_handovers_are_never_changed BEFORE UPDATE OR TRUNCATE ON audit_handovers
FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_only_added_to();

CREATE TRIGGER audit_handovers_are_never_cut AFTER DELETE ON audit_handovers
REFERENCING OLD TABLE AS gone FOR EACH STATEMENT EXECUTE FUNCTION audit_log_goes_from_its_beginning();

-- Delivery cursor of each webhook receiver, and the instance that delivers to it.
CREATE TABLE audit_receivers (
    name TEXT NOT NULL PRIMARY KEY,
    seq BIGINT NOT NULL,
    checkpoint_seq BIGINT NOT NULL,
    instance TEXT NOT NULL
);

-- One row per operation, for lists. Can be rebuilt from `audit_log`.
CREATE TABLE operations (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    operation_id TEXT COLLATE "C" NOT NULL UNIQUE,
    instance TEXT COLLATE "C" NOT NULL,
    operation_type TEXT COLLATE "C" NOT NULL,
    resource_type TEXT COLLATE "C" NOT NULL,
    cluster_id BIGINT,
    cluster_name TEXT COLLATE "C",
    namespace TEXT COLLATE "C",
    resource_name TEXT COLLATE "C",
    searched TEXT COLLATE "C" NOT NULL,
    user_id BIGINT,
    username TEXT COLLATE "C" NOT NULL,
    role TEXT COLLATE "C",
    grant_id BIGINT,
    token_id BIGINT,
    reason TEXT COLLATE "C",
    source_ip TEXT COLLATE "C",
    request_id TEXT COLLATE "C",
    status TEXT COLLATE "C" NOT NULL CHECK (status IN ('pending', 'success', 'failed', 'unknown')),
    error_code TEXT COLLATE "C",
    details TEXT COLLATE "C",
    duration_ms BIGINT,
    created_at TIMESTAMPTZ NOT NULL,
    finished_at TIMESTAMPTZ
);

CREATE INDEX operations_created_at ON operations (created_at);
CREATE INDEX operations_cluster ON operations (cluster_id, id);
CREATE INDEX operations_namespace ON operations (namespace, id);
CREATE INDEX operations_user ON operations (user_id, id, created_at);
CREATE INDEX operations_username ON operations (username, id, created_at);
CREATE INDEX operations_status ON operations (status, id);

-- Leases of running server processes. A pending operation of an instance without a lease is an orphan.
CREATE TABLE leases (
    instance TEXT NOT NULL PRIMARY KEY,
    expires_at TIMESTAMPTZ NOT NULL,
    -- fingerprint of the next master key, if this server has it
    next_fingerprint TEXT
);

-- Users. A user of an identity provider is identified by `provider` and `subject`, the provider's id of the user, and
-- has no password; both are NULL for a local user. `group_names` is a JSON array, as last read from the provider.
CREATE TABLE users (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    username TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL,
    password TEXT,
    provider TEXT,
    subject TEXT,
    group_names TEXT,
    role TEXT NOT NULL CHECK (role IN ('none', 'viewer', 'ops_admin', 'super_admin')),
    disabled BOOLEAN NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    last_login_at TIMESTAMPTZ,
    -- time at which the provider last confirmed the user and the groups; NULL after the provider ended the sessions
    confirmed_at TIMESTAMPTZ,
    -- time at which a server last claimed to read the user from a directory
    visited_at TIMESTAMPTZ,
    UNIQUE (provider, subject),
    CHECK ((provider IS NULL) = (subject IS NULL)),
    CHECK ((provider IS NULL) = (password IS NOT NULL))
);

-- Service accounts. One without an owner, or whose owner is disabled, is out of use.
CREATE TABLE service_accounts (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    owner_user_id BIGINT REFERENCES users ON DELETE SET NULL,
    created_at TIMESTAMPTZ NOT NULL,
    created_by TEXT NOT NULL
);

CREATE INDEX service_accounts_owner ON service_accounts (owner_user_id);

-- API tokens of users and service accounts. `hash` is the SHA-256 of the token. `ceiling` and `networks` are JSON, as
-- in the API. A row is never deleted.
CREATE TABLE api_tokens (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hash BYTEA NOT NULL UNIQUE,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    user_id BIGINT,
    service_account_id BIGINT,
    ceiling TEXT NOT NULL,
    networks TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    last_used_at TIMESTAMPTZ,
    last_used_ip TEXT,
    revoked_at TIMESTAMPTZ,
    CHECK ((user_id IS NULL) <> (service_account_id IS NULL))
);

CREATE INDEX api_tokens_user ON api_tokens (user_id);
CREATE INDEX api_tokens_service_account ON api_tokens (service_account_id);

-- TOTP seeds of users. `uuid` is the id of the enrolment, which is pending until it is confirmed. `seed` is sealed.
-- `last_step` is the latest time step of which a code was used.
CREATE TABLE second_factors (
    user_id BIGINT NOT NULL PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    uuid TEXT NOT NULL UNIQUE,
    seed BYTEA NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    confirmed_at TIMESTAMPTZ,
    last_step BIGINT
);

-- Hashes of unused recovery codes. A code that is used is deleted.
CREATE TABLE recovery_codes (
    user_id BIGINT NOT NULL REFERENCES second_factors ON DELETE CASCADE,
    hash BYTEA NOT NULL,
    PRIMARY KEY (user_id, hash)
);

-- Uses of break-glass. A row is changed once, when another super admin reviews it.
CREATE TABLE break_glass (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id BIGINT NOT NULL,
    username TEXT NOT NULL,
    cluster_id BIGINT NOT NULL,
    reason TEXT NOT NULL,
    grant_id BIGINT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    ends_at TIMESTAMPTZ NOT NULL,
    reviewed_at TIMESTAMPTZ,
    reviewed_by TEXT,
    review_note TEXT
);

CREATE INDEX break_glass_user ON break_glass (user_id, created_at);

-- What the id of an identity provider is bound to, for ever: an OIDC issuer, or the base of a directory.
CREATE TABLE identity_providers (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('oidc', 'ldap')),
    authority TEXT NOT NULL
);

-- Logins that were begun at an OIDC provider. `state` and `browser` are hashes. A row is deleted when its state and
-- browser are presented.
CREATE TABLE oidc_logins (
    state BYTEA NOT NULL PRIMARY KEY,
    provider TEXT NOT NULL,
    browser BYTEA NOT NULL,
    -- path of the console to which the browser returns
    target TEXT NOT NULL,
    address TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);

CREATE INDEX oidc_logins_expires_at ON oidc_logins (expires_at);
CREATE INDEX oidc_logins_address ON oidc_logins (address, created_at);

-- Hashes of the ids of logout tokens that OIDC providers have sent. Each token is accepted once.
CREATE TABLE logout_tokens (
    provider TEXT NOT NULL,
    jti BYTEA NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (provider, jti)
);

CREATE INDEX logout_tokens_expires_at ON logout_tokens (expires_at);

CREATE TABLE clusters (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uuid TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    name_key TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    auth_type TEXT NOT NULL CHECK (auth_type IN ('token', 'kubeconfig')),
    api_server TEXT NOT NULL,
    ca TEXT,
    tls_server_name TEXT,
    insecure_skip_tls_verify BOOLEAN NOT NULL,
    credential BYTEA NOT NULL,
    connection_version BIGINT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('online', 'offline', 'unknown')),
    status_reason TEXT,
    version TEXT,
    node_count BIGINT,
    pod_count BIGINT,
    namespace_count BIGINT,
    created_at TIMESTAMPTZ NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    last_connected_at TIMESTAMPTZ,
    -- time at which a server last claimed a probe of the cluster
    visited_at TIMESTAMPTZ NOT NULL
);

-- Own roles. `rules` is JSON, as in the API. A deleted role keeps its row, because grants name it and its name is never
-- used again.
CREATE TABLE roles (
    name TEXT COLLATE "C" NOT NULL PRIMARY KEY,
    description TEXT NOT NULL,
    rules TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    created_by TEXT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL,
    deleted_at TIMESTAMPTZ
);

-- Grants. A row is changed once, when the grant is revoked, and never deleted. `subject` is `user:<id>`,
-- `service_account:<id>` or `group:<provider>:<name>`. `clusters` and `namespaces` are JSON, as in the API.
CREATE TABLE grants (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    subject TEXT NOT NULL,
    role TEXT NOT NULL,
    clusters TEXT NOT NULL,
    namespaces TEXT NOT NULL,
    starts_at TIMESTAMPTZ NOT NULL,
    ends_at TIMESTAMPTZ,
    reason TEXT,
    source TEXT NOT NULL,
    created_at TIMESTAMPTZ NOT NULL,
    created_by TEXT NOT NULL,
    revoked_at TIMESTAMPTZ,
    revoked_by TEXT
);

CREATE INDEX grants_subject ON grants (subject, id);
CREATE INDEX grants_role ON grants (role);

-- Requests of users for a grant. `clusters` and `namespaces` as in `grants`. A row is changed once, when the request is
-- decided or withdrawn. A pending request expires a day after it was made.
CREATE TABLE grant_requests (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    user_id BIGINT NOT NULL,
    username TEXT NOT NULL,
    role TEXT NOT NULL,
    clusters TEXT NOT NULL,
    namespaces TEXT NOT NULL,
    duration_seconds BIGINT NOT NULL,
    reason TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'approved', 'denied', 'withdrawn')),
    created_at TIMESTAMPTZ NOT NULL,
    decided_at TIMESTAMPTZ,
    decided_by TEXT,
    decision_reason TEXT,
    grant_id BIGINT
);

CREATE INDEX grant_requests_user ON grant_requests (user_id, id);
CREATE INDEX grant_requests_status ON grant_requests (status, id);

-- One row with a random number, which every change of grants, own roles, labels of clusters or roles of users replaces.
-- Rights that were compiled under another number may be out of date.
CREATE TABLE rights_stamp (
    id BIGINT PRIMARY KEY CHECK (id = 1),
    stamp BIGINT NOT NULL
);

INSERT INTO rights_stamp (id, stamp) VALUES (1, 0);

-- Sessions. Ending a session deletes its row.
CREATE TABLE sessions (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cookie BYTEA NOT NULL UNIQUE,
    user_id BIGINT NOT NULL REFERENCES users ON DELETE CASCADE,
    generation BIGINT NOT NULL,
    source_ip TEXT,
    user_agent TEXT,
    created_at TIMESTAMPTZ NOT NULL,
    last_seen_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL,
    -- time at which the user gave a password, here or at an identity provider
    authenticated_at TIMESTAMPTZ NOT NULL,
    -- time at which the user last gave a second factor
    factor_at TIMESTAMPTZ
);

CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expires_at ON sessions (expires_at);

-- Sessions of an identity provider's users. `sid` is the provider's id of the session. `refresh_token`, the provider's,
-- is sealed.
CREATE TABLE provider_sessions (
    session_id BIGINT NOT NULL PRIMARY KEY REFERENCES sessions ON DELETE CASCADE,
    uuid TEXT NOT NULL UNIQUE,
    provider TEXT NOT NULL,
    sid TEXT,
    refresh_token BYTEA,
    -- time at which a server last claimed to read the user again with the refresh token
    visited_at TIMESTAMPTZ NOT NULL
);

CREATE INDEX provider_sessions_sid ON provider_sessions (provider, sid);

CREATE TABLE refresh_tokens (
    hash BYTEA NOT NULL PRIMARY KEY,
    session_id BIGINT NOT NULL REFERENCES sessions ON DELETE CASCADE,
    used_at TIMESTAMPTZ
);

CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);

CREATE TABLE throttles (
    key TEXT NOT NULL PRIMARY KEY,
    failures BIGINT NOT NULL,
    window_start TIMESTAMPTZ,
    blocked_until TIMESTAMPTZ,
    refused_minute BIGINT NOT NULL,
    refused_count BIGINT NOT NULL,
    updated_at TIMESTAMPTZ NOT NULL
);

CREATE INDEX throttles_updated_at ON throttles (updated_at);

-- Addresses from which a user has logged in: an IPv4 address, or an IPv6 network of 64 bits. At most eight per user.
CREATE TABLE login_addresses (
    user_id BIGINT NOT NULL REFERENCES users ON DELETE CASCADE,
    address TEXT NOT NULL,
    last_login_at TIMESTAMPTZ NOT NULL,
    PRIMARY KEY (user_id, address)
);

-- Idempotency keys and their stored responses. `subject` is `user:<id>` or `service_account:<id>`. `instance` is NULL
-- when no process executes the request. `request` (a digest) and `reply` are sealed.
CREATE TABLE idempotency_keys (
    id TEXT NOT NULL PRIMARY KEY,
    subject TEXT NOT NULL,
    key TEXT NOT NULL,
    instance TEXT,
    request BYTEA NOT NULL,
    request_id TEXT,
    reply BYTEA,
    expires_at TIMESTAMPTZ NOT NULL,
    UNIQUE (subject, key)
);

CREATE INDEX idempotency_keys_expires_at ON idempotency_keys (expires_at);
