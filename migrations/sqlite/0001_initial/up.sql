-- Times are microseconds since 1970 (UTC). Ids are never reused (AUTOINCREMENT).

CREATE TABLE install (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    fingerprint TEXT NOT NULL,
    -- fingerprint of the next master key while a key rotation runs
    next_fingerprint TEXT,
    created_at INTEGER NOT NULL
) STRICT;

-- Signed prune marker: the beginning of a trail whose oldest entries were removed by retention. `seq` is the last
-- removed entry.
CREATE TABLE audit_beginning (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    seq INTEGER NOT NULL,
    line TEXT NOT NULL
) STRICT;

-- Audit entries, a hash chain. Append-only, except that entries up to `audit_beginning.seq` may be deleted.
CREATE TABLE audit_log (
    seq INTEGER PRIMARY KEY,
    operation_id TEXT NOT NULL,
    entry TEXT NOT NULL CHECK (entry IN ('intent', 'outcome', 'complete')),
    at INTEGER NOT NULL,
    body TEXT NOT NULL,
    hash BLOB NOT NULL
) STRICT;

CREATE INDEX audit_log_operation ON audit_log (operation_id);

CREATE TRIGGER audit_log_is_never_changed BEFORE UPDATE ON audit_log
BEGIN SELECT RAISE(ABORT, 'audit_log is only ever added to'); END;

CREATE TRIGGER audit_log_is_never_cut BEFORE DELETE ON audit_log
WHEN OLD.seq > coalesce((SELECT seq FROM audit_beginning), 0)
BEGIN SELECT RAISE(ABORT, 'audit_log is only ever added to'); END;

CREATE TABLE audit_head (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    trail TEXT NOT NULL,
    seq INTEGER NOT NULL,
    hash BLOB NOT NULL
) STRICT;

INSERT INTO audit_head (id, trail, seq, hash) VALUES (1, lower(hex(randomblob(16))), 0, zeroblob(32));

-- Signed checkpoints of the chain. Append-only, except that checkpoints before `audit_beginning.seq` may be deleted; the
-- checkpoint of that entry, which the prune marker references, stays.
CREATE TABLE audit_checkpoints (
    seq INTEGER PRIMARY KEY,
    line TEXT NOT NULL
) STRICT;

CREATE TRIGGER audit_checkpoints_are_never_changed BEFORE UPDATE ON audit_checkpoints
BEGIN SELECT RAISE(ABORT, 'audit_checkpoints is only ever added to'); END;

CREATE TRIGGER audit_checkpoints_are_never_cut BEFORE DELETE ON audit_checkpoints
WHEN OLD.seq >= coalesce((SELECT seq FROM audit_beginning), 0)
BEGIN SELECT RAISE(ABORT, 'audit_checkpoints is only ever added to'); END;

-- Key rotations of the trail, signed by the new key; `seq` is the number of the `rekey` entry.
CREATE TABLE audit_handovers (
    seq INTEGER PRIMARY KEY,
    line TEXT NOT NULL
) STRICT;

CREATE TRIGGER audit_handovers_are_never_changed BEFORE UPDATE ON audit_handovers
BEGIN SELECT RAISE(ABORT, 'audit_handovers is only ever added to'); END;

CREATE TRIGGER audit_handovers_are_never_cut BEFORE DELETE ON audit_handovers
WHEN OLD.seq > coalesce((SELECT seq FROM audit_beginning), 0)
BEGIN SELECT RAISE(ABORT, 'audit_handovers is only ever added to'); END;

-- Delivery cursor of each webhook receiver, and the instance that delivers to it.
CREATE TABLE audit_receivers (
    name TEXT NOT NULL PRIMARY KEY,
    seq INTEGER NOT NULL,
    checkpoint_seq INTEGER NOT NULL,
    instance TEXT NOT NULL
) STRICT;

-- One row per operation, for lists. Can be rebuilt from `audit_log`.
CREATE TABLE operations (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    operation_id TEXT NOT NULL UNIQUE,
    instance TEXT NOT NULL,
    operation_type TEXT NOT NULL,
    resource_type TEXT NOT NULL,
    cluster_id INTEGER,
    cluster_name TEXT,
    namespace TEXT,
    resource_name TEXT,
    searched TEXT NOT NULL,
    user_id INTEGER,
    username TEXT NOT NULL,
    role TEXT,
    grant_id INTEGER,
    token_id INTEGER,
    reason TEXT,
    source_ip TEXT,
    request_id TEXT,
    status TEXT NOT NULL CHECK (status IN ('pending', 'success', 'failed', 'unknown')),
    error_code TEXT,
    details TEXT,
    duration_ms INTEGER,
    created_at INTEGER NOT NULL,
    finished_at INTEGER
) STRICT;

CREATE INDEX operations_created_at ON operations (created_at);
CREATE INDEX operations_cluster ON operations (cluster_id, id);
CREATE INDEX operations_namespace ON operations (namespace, id);
CREATE INDEX operations_user ON operations (user_id, id, created_at);
CREATE INDEX operations_username ON operations (username, id, created_at);
CREATE INDEX operations_status ON operations (status, id);

-- Leases of running server processes. A pending operation of an instance without a lease is an orphan.
CREATE TABLE leases (
    instance TEXT NOT NULL PRIMARY KEY,
    expires_at INTEGER NOT NULL,
    -- fingerprint of the next master key, if this server has it
    next_fingerprint TEXT
) STRICT;

-- Users. A user of an identity provider is identified by `provider` and `subject`, the provider's id of the user, and
-- has no password; both are NULL for a local user. `group_names` is a JSON array, as last read from the provider.
CREATE TABLE users (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    username TEXT NOT NULL UNIQUE,
    display_name TEXT NOT NULL,
    password TEXT,
    provider TEXT,
    subject TEXT,
    group_names TEXT,
    role TEXT NOT NULL CHECK (role IN ('none', 'viewer', 'ops_admin', 'super_admin')),
    disabled INTEGER NOT NULL CHECK (disabled IN (0, 1)),
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    last_login_at INTEGER,
    -- time at which the provider last confirmed the user and the groups; NULL after the provider ended the sessions
    confirmed_at INTEGER,
    -- time at which a server last claimed to read the user from a directory
    visited_at INTEGER,
    UNIQUE (provider, subject),
    CHECK ((provider IS NULL) = (subject IS NULL)),
    CHECK ((provider IS NULL) = (password IS NOT NULL))
) STRICT;

-- Service accounts. One without an owner, or whose owner is disabled, is out of use.
CREATE TABLE service_accounts (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    name TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    owner_user_id INTEGER REFERENCES users ON DELETE SET NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL
) STRICT;

CREATE INDEX service_accounts_owner ON service_accounts (owner_user_id);

-- API tokens of users and service accounts. `hash` is the SHA-256 of the token. `ceiling` and `networks` are JSON, as
-- in the API. A row is never deleted.
CREATE TABLE api_tokens (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    hash BLOB NOT NULL UNIQUE,
    name TEXT NOT NULL,
    prefix TEXT NOT NULL,
    user_id INTEGER,
    service_account_id INTEGER,
    ceiling TEXT NOT NULL,
    networks TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    last_used_at INTEGER,
    last_used_ip TEXT,
    revoked_at INTEGER,
    CHECK ((user_id IS NULL) <> (service_account_id IS NULL))
) STRICT;

CREATE INDEX api_tokens_user ON api_tokens (user_id);
CREATE INDEX api_tokens_service_account ON api_tokens (service_account_id);

-- TOTP seeds of users. `uuid` is the id of the enrolment, which is pending until it is confirmed. `seed` is sealed.
-- `last_step` is the latest time step of which a code was used.
CREATE TABLE second_factors (
    user_id INTEGER NOT NULL PRIMARY KEY REFERENCES users ON DELETE CASCADE,
    uuid TEXT NOT NULL UNIQUE,
    seed BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    confirmed_at INTEGER,
    last_step INTEGER
) STRICT;

-- Hashes of unused recovery codes. A code that is used is deleted.
CREATE TABLE recovery_codes (
    user_id INTEGER NOT NULL REFERENCES second_factors ON DELETE CASCADE,
    hash BLOB NOT NULL,
    PRIMARY KEY (user_id, hash)
) STRICT;

-- Uses of break-glass. A row is changed once, when another super admin reviews it.
CREATE TABLE break_glass (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    username TEXT NOT NULL,
    cluster_id INTEGER NOT NULL,
    reason TEXT NOT NULL,
    grant_id INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    ends_at INTEGER NOT NULL,
    reviewed_at INTEGER,
    reviewed_by TEXT,
    review_note TEXT
) STRICT;

CREATE INDEX break_glass_user ON break_glass (user_id, created_at);

-- What the id of an identity provider is bound to, for ever: an OIDC issuer, or the base of a directory.
CREATE TABLE identity_providers (
    id TEXT NOT NULL PRIMARY KEY,
    kind TEXT NOT NULL CHECK (kind IN ('oidc', 'ldap')),
    authority TEXT NOT NULL
) STRICT;

-- Logins that were begun at an OIDC provider. `state` and `browser` are hashes. A row is deleted when its state and
-- browser are presented.
CREATE TABLE oidc_logins (
    state BLOB NOT NULL PRIMARY KEY,
    provider TEXT NOT NULL,
    browser BLOB NOT NULL,
    -- path of the console to which the browser returns
    target TEXT NOT NULL,
    address TEXT,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX oidc_logins_expires_at ON oidc_logins (expires_at);
CREATE INDEX oidc_logins_address ON oidc_logins (address, created_at);

-- Hashes of the ids of logout tokens that OIDC providers have sent. Each token is accepted once.
CREATE TABLE logout_tokens (
    provider TEXT NOT NULL,
    jti BLOB NOT NULL,
    expires_at INTEGER NOT NULL,
    PRIMARY KEY (provider, jti)
) STRICT;

CREATE INDEX logout_tokens_expires_at ON logout_tokens (expires_at);

CREATE TABLE clusters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    uuid TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    name_key TEXT NOT NULL UNIQUE,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    auth_type TEXT NOT NULL CHECK (auth_type IN ('token', 'kubeconfig')),
    api_server TEXT NOT NULL,
    ca TEXT,
    tls_server_name TEXT,
    insecure_skip_tls_verify INTEGER NOT NULL CHECK (insecure_skip_tls_verify IN (0, 1)),
    credential BLOB NOT NULL,
    connection_version INTEGER NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('online', 'offline', 'unknown')),
    status_reason TEXT,
    version TEXT,
    node_count INTEGER,
    pod_count INTEGER,
    namespace_count INTEGER,
    created_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    last_connected_at INTEGER,
    -- time at which a server last claimed a probe of the cluster
    visited_at INTEGER NOT NULL
) STRICT;

-- Own roles. `rules` is JSON, as in the API. A deleted role keeps its row, because grants name it and its name is never
-- used again.
CREATE TABLE roles (
    name TEXT NOT NULL PRIMARY KEY,
    description TEXT NOT NULL,
    rules TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    updated_at INTEGER NOT NULL,
    deleted_at INTEGER
) STRICT;

-- Grants. A row is changed once, when the grant is revoked, and never deleted. `subject` is `user:<id>`,
-- `service_account:<id>` or `group:<provider>:<name>`. `clusters` and `namespaces` are JSON, as in the API.
CREATE TABLE grants (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    subject TEXT NOT NULL,
    role TEXT NOT NULL,
    clusters TEXT NOT NULL,
    namespaces TEXT NOT NULL,
    starts_at INTEGER NOT NULL,
    ends_at INTEGER,
    reason TEXT,
    source TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    created_by TEXT NOT NULL,
    revoked_at INTEGER,
    revoked_by TEXT
) STRICT;

CREATE INDEX grants_subject ON grants (subject, id);
CREATE INDEX grants_role ON grants (role);

-- Requests of users for a grant. `clusters` and `namespaces` as in `grants`. A row is changed once, when the request is
-- decided or withdrawn. A pending request expires a day after it was made.
CREATE TABLE grant_requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    user_id INTEGER NOT NULL,
    username TEXT NOT NULL,
    role TEXT NOT NULL,
    clusters TEXT NOT NULL,
    namespaces TEXT NOT NULL,
    duration_seconds INTEGER NOT NULL,
    reason TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('pending', 'approved', 'denied', 'withdrawn')),
    created_at INTEGER NOT NULL,
    decided_at INTEGER,
    decided_by TEXT,
    decision_reason TEXT,
    grant_id INTEGER
) STRICT;

CREATE INDEX grant_requests_user ON grant_requests (user_id, id);
CREATE INDEX grant_requests_status ON grant_requests (status, id);

-- One row with a random number, which every change of grants, own roles, labels of clusters or roles of users replaces.
-- Rights that were compiled under another number may be out of date.
CREATE TABLE rights_stamp (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    stamp INTEGER NOT NULL
) STRICT;

INSERT INTO rights_stamp (id, stamp) VALUES (1, 0);

-- Sessions. Ending a session deletes its row.
CREATE TABLE sessions (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    cookie BLOB NOT NULL UNIQUE,
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    generation INTEGER NOT NULL,
    source_ip TEXT,
    user_agent TEXT,
    created_at INTEGER NOT NULL,
    last_seen_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    -- time at which the user gave a password, here or at an identity provider
    authenticated_at INTEGER NOT NULL,
    -- time at which the user last gave a second factor
    factor_at INTEGER
) STRICT;

CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expires_at ON sessions (expires_at);

-- Sessions of an identity provider's users. `sid` is the provider's id of the session. `refresh_token`, the provider's,
-- is sealed.
CREATE TABLE provider_sessions (
    session_id INTEGER NOT NULL PRIMARY KEY REFERENCES sessions ON DELETE CASCADE,
    uuid TEXT NOT NULL UNIQUE,
    provider TEXT NOT NULL,
    sid TEXT,
    refresh_token BLOB,
    -- time at which a server last claimed to read the user again with the refresh token
    visited_at INTEGER NOT NULL
) STRICT;

CREATE INDEX provider_sessions_sid ON provider_sessions (provider, sid);

CREATE TABLE refresh_tokens (
    hash BLOB NOT NULL PRIMARY KEY,
    session_id INTEGER NOT NULL REFERENCES sessions ON DELETE CASCADE,
    used_at INTEGER
) STRICT;

CREATE INDEX refresh_tokens_session ON refresh_tokens (session_id);

CREATE TABLE throttles (
    key TEXT NOT NULL PRIMARY KEY,
    failures INTEGER NOT NULL,
    window_start INTEGER,
    blocked_until INTEGER,
    refused_minute INTEGER NOT NULL,
    refused_count INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT;

CREATE INDEX throttles_updated_at ON throttles (updated_at);

-- Addresses from which a user has logged in: an IPv4 address, or an IPv6 network of 64 bits. At most eight per user.
CREATE TABLE login_addresses (
    user_id INTEGER NOT NULL REFERENCES users ON DELETE CASCADE,
    address TEXT NOT NULL,
    last_login_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, address)
) STRICT;

-- Idempotency keys and their stored responses. `subject` is `user:<id>` or `service_account:<id>`. `instance` is NULL
-- when no process executes the request. `request` (a digest) and `reply` are sealed.
CREATE TABLE idempotency_keys (
    id TEXT NOT NULL PRIMARY KEY,
    subject TEXT NOT NULL,
    key TEXT NOT NULL,
    instance TEXT,
    request BLOB NOT NULL,
    request_id TEXT,
    reply BLOB,
    expires_at INTEGER NOT NULL,
    UNIQUE (subject, key)
) STRICT;

CREATE INDEX idempotency_keys_expires_at ON idempotency_keys (expires_at);
