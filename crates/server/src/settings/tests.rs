use std::{fs, path::Path};

use pilothouse_core::{
    access::{StepUp, StepUpAction},
    break_glass::BreakGlassSettings,
    second_factor::{RequireSecondFactor, SecondFactorSettings},
    user::Username,
};
use pilothouse_store::Database;

use super::*;

mod providers;

const EXAMPLE: &str = include_str!("../../../../docs/pilothouse.example.toml");
const MANUAL: &str = include_str!("../../../../docs/configure.md");

/// Reads settings from a file with these lines and from this environment.
fn read(file: &str, environment: &[(&str, &str)], flags: Flags) -> Result<Configuration, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("settings.toml");
    fs::write(&path, file).unwrap();
    let environment = environment.iter().map(|(name, value)| (OsString::from(*name), OsString::from(*value)));
    Configuration::read(&Flags { config: Some(path), ..flags }, environment)
        .map_err(|fatal| fatal.to_string())
}

fn error_of(file: &str, environment: &[(&str, &str)]) -> String {
    read(file, environment, Flags::default())
        .err()
        .unwrap_or_else(|| panic!("accepted: {file} {environment:?}"))
}

/// The lines of the example that set a value, `#key = value`, and that begin a table, `#[[key]]`. Of two keys of which
/// one must be set, only the file.
fn example() -> Vec<&'static str> {
    let lines = EXAMPLE.lines().filter_map(|line| line.strip_prefix('#'));
    let is_value = |line: &str| {
        let key = line.split_once(" = ").map(|(key, _)| key);
        let is_secret = matches!(key, Some("client_secret" | "bind_password"));
        line.starts_with("[[") || key.is_some_and(|key| !key.contains(' ')) && !is_secret
    };
    lines.filter(|line| is_value(line)).collect()
}

#[test]
fn committed_settings_documentation_is_current() {
    assert!(EXAMPLE == super::example(), "docs/pilothouse.example.toml is out of date: just settings");
    let table = format!("from crates/server/src/settings/table.rs -->\n{}\n", reference());
    assert!(MANUAL.contains(&table), "the table in docs/configure.md is out of date: just settings");
}

#[test]
fn example_file_is_valid_with_and_without_comment_marks() {
    assert!(read(EXAMPLE, &[], Flags::default()).is_ok());
    let read =
        read(&example().join("\n"), &[], Flags::default()).map_err(|message| panic!("{message}")).unwrap();
    assert!(matches!(read.settings.database(), Ok(Database::Postgres(_))));
    assert!(crate::config::initial_password(&read.settings).is_ok());
    assert_eq!((read.settings.oidc_providers().len(), read.settings.ldap_providers().len()), (1, 1));
}

#[test]
fn later_layer_overrides_earlier_one() {
    let file = "listen = \"127.0.0.1:1\"\nlog = \"debug\"\ndata_dir = \"file\"";
    let environment = [("PILOTHOUSE_LISTEN", "127.0.0.1:2"), ("PILOTHOUSE_LOG", "warn"), ("HOME", "/root")];
    let flags = Flags { listen: Some("127.0.0.1:3".into()), ..Flags::default() };
    let configuration = read(file, &environment, flags).unwrap_or_else(|message| panic!("{message}"));
    let settings = &configuration.settings;
    assert_eq!((settings.listen.port(), settings.log.as_str()), (3, "warn"));
    assert_eq!(settings.data_dir, Path::new("file"));
    let shown = configuration.show();
    for (key, origin) in [
        ("listen", "flag --listen"),
        ("log", "environment PILOTHOUSE_LOG"),
        ("data_dir", "settings.toml"),
        ("session_idle", "default"),
    ] {
        let line = shown.lines().find(|line| line.starts_with(&format!("{key} ="))).unwrap();
        assert!(line.ends_with(origin), "{line}");
    }
}

#[test]
fn environment_text_is_not_parsed_as_toml() {
    for password in
        ["123456789012", "true", "[1, 2, 3, 4, 5]", "{a = 1, b = 2}", "\"quoted and long\"", "0x1234567890"]
    {
        let environment = [("PILOTHOUSE_ADMIN_PASSWORD", password), ("PILOTHOUSE_DATA_DIR", "2026")];
        let settings =
            read("", &environment, Flags::default()).unwrap_or_else(|message| panic!("{message}")).settings;
        assert_eq!(settings.admin_password.unwrap().expose_secret(), password);
        assert_eq!(settings.data_dir, Path::new("2026"));
    }
    let empty = [("PILOTHOUSE_DATABASE_URL", ""), ("PILOTHOUSE_LISTEN", "")];
    assert!(read("", &empty, Flags::default()).is_ok(), "empty is not set");
}

#[test]
fn unknown_names_are_refused_by_name() {
    for file in
        ["colour = 1", "[server]\nlisten = \"127.0.0.1:1\"", "Listen = \"127.0.0.1:1\"", "listen.port = 1"]
    {
        let message = error_of(file, &[]);
        let name = file.trim_start_matches('[').split([' ', ']', '.']).next().unwrap();
        assert!(message.contains(&format!("`{name}`")) && message.contains("settings.toml"), "{message}");
    }
    for (name, value, is_error) in [
        ("PILOTHOUSE_LISTN", "127.0.0.1:1", true),
        ("PILOTHOUSE_listen", "127.0.0.1:1", true),
        ("PILOTHOUSE_", "1", true),
        ("PILOTHOUSE_PORT", "8080", true),
        ("PILOTHOUSE_LISTN", "", true),
        ("PILOTHOUSE", "1", false),
        ("PILOTHOUSE_TEST_CACHE", "/tmp", false),
        ("PILOTHOUSE_TEST_DEADLINE", "soon", true),
        ("LISTEN", "nowhere", false),
        // variables that Kubernetes sets for Services named pilothouse and pilothouse-metrics
        ("PILOTHOUSE_PORT", "tcp://10.0.0.1:80", false),
        ("PILOTHOUSE_SERVICE_HOST", "10.0.0.1", false),
        ("PILOTHOUSE_SERVICE_PORT_HTTP", "80", false),
        ("PILOTHOUSE_PORT_80_TCP_ADDR", "10.0.0.1", false),
        ("PILOTHOUSE_METRICS_SERVICE_PORT", "9090", false),
        ("PILOTHOUSE_METRICS_PORT_9090_TCP", "tcp://10.0.0.1:9090", false),
    ] {
        let read = read("", &[(name, value)], Flags::default());
        assert_eq!(read.is_err(), is_error, "{name}={value}");
        assert!(read.err().is_none_or(|message| message.contains(name)), "{name}");
    }
}

#[test]
fn invalid_values_are_refused_with_name_and_expected_form() {
    for (file, key) in [
        ("listen = \"localhost:1\"", "listen"),
        ("listen = 8080", "listen"),
        ("metrics_listen = \":9090\"", "metrics_listen"),
        ("data_dir = []", "data_dir"),
        ("egress_allow_loopback = \"yes\"", "egress_allow_loopback"),
        ("egress_allow_networks = \"\"", "egress_allow_networks"),
        ("trusted_proxies = \"a proxy\"", "trusted_proxies"),
        ("egress_allow_networks = \"10.0.0.0/33\"", "egress_allow_networks"),
        ("egress_allow_networks = [\"10.0.0.0/8\"]", "egress_allow_networks"),
        ("masked_fields = \"\"", "masked_fields"),
        ("masked_fields = \"data.password\"", "masked_fields"),
        ("masked_fields = \"/data/a,\"", "masked_fields"),
        ("masked_fields = [\"/data/a\"]", "masked_fields"),
        ("allow_insecure_tls = 1", "allow_insecure_tls"),
        ("read_deadline = 10", "read_deadline"),
        ("read_deadline = \"-10s\"", "read_deadline"),
        ("write_deadline = \"999ms\"", "write_deadline"),
        ("session_lifetime = \"8761h\"", "session_lifetime"),
        ("probe_interval = \"99999999999999999h\"", "probe_interval"),
        ("keep_alive = 75", "keep_alive"),
        ("keep_alive = \"0s\"", "keep_alive"),
        ("log_format = \"xml\"", "log_format"),
        ("list_cache_memory_mib = -1", "list_cache_memory_mib"),
        ("list_cache_memory_mib = \"1GiB\"", "list_cache_memory_mib"),
        ("list_cache_concurrent_fills = 0", "list_cache_concurrent_fills"),
        ("list_cache_idle = \"0s\"", "list_cache_idle"),
        ("free_space_floor_mib = -1", "free_space_floor_mib"),
        ("audit_retention = \"0s\"\naudit_archive_dir = \"a\"", "audit_retention"),
        ("audit_retention = \"876001h\"\naudit_archive_dir = \"a\"", "audit_retention"),
        ("free_space_floor_mib = \"1g\"", "free_space_floor_mib"),
        ("admin_password = 1", "admin_password"),
        ("require_second_factor = true", "require_second_factor"),
        ("require_second_factor = \"some\"", "require_second_factor"),
        ("step_up = \"\"", "step_up"),
        ("step_up = \"reveal, exec\"", "step_up"),
        ("step_up = \"reveal, none\"", "step_up"),
        ("step_up = [\"reveal\"]", "step_up"),
        ("break_glass_users = \"\"", "break_glass_users"),
        ("break_glass_users = \"ann, corp:ben\"", "break_glass_users"),
        ("break_glass_networks = \"office\"", "break_glass_networks"),
    ] {
        let message = error_of(file, &[]);
        let expected = Setting::find(key).unwrap().value_type.expected();
        assert!(message.contains(&format!("`{key}`")) && message.ends_with(&*expected), "{file}: {message}");
        assert!(message.contains("settings.toml"), "{file}: {message}");
    }
    assert!(error_of("", &[("PILOTHOUSE_LOG_FORMAT", "xml")]).contains("environment PILOTHOUSE_LOG_FORMAT"));
    for url in [
        "http://receiver.example.org/audit",
        "receiver.example.org",
        "ftp://127.0.0.1/",
        "https://user:word@receiver.example.org/",
        "https://",
        "",
    ] {
        let file = format!("audit_webhook_url = \"{url}\"\naudit_webhook_secret = \"0123456789abcdef\"");
        let message = error_of(&file, &[]);
        assert!(message.contains("`audit_webhook_url`"), "{url}: {message}");
    }
    assert!(error_of("audit_webhook_url = \"https://h/\"", &[]).contains("audit_webhook_secret"));
    assert!(error_of("audit_webhook_secret = \"0123456789abcdef\"", &[]).contains("audit_webhook_url"));
    let short = "audit_webhook_url = \"https://h/\"\naudit_webhook_secret = \"0123456789abcde\"";
    assert!(error_of(short, &[]).contains("audit_webhook_secret"));
    for url in [
        "https://receiver.example.org:8443/a?b=c",
        "http://127.0.0.1:1/",
        "http://[::1]/",
        "http://localhost/",
    ] {
        let file = format!("audit_webhook_url = \"{url}\"\naudit_webhook_secret = \"0123456789abcdef\"");
        assert!(
            read(&file, &[], Flags::default()).is_ok_and(|read| read.settings.webhook().is_some()),
            "{url}"
        );
    }
    assert!(error_of("audit_retention = \"2160h\"", &[]).contains("audit_archive_dir"));
    assert!(error_of("tls_key = \"a\"", &[]).contains("tls_certificate"));
    assert!(error_of("tls_certificate = \"a\"", &[]).contains("tls_key"));
    assert!(error_of("listen = \"[::1]:1\"\nmetrics_listen = \"[::1]:1\"", &[]).contains("metrics_listen"));
    assert!(error_of("break_glass_users = \"ann\"", &[]).contains("break_glass_networks"));
    assert!(error_of("break_glass_networks = \"::1\"", &[]).contains("break_glass_users"));
    assert!(error_of("log = \"info\"\n\nlisten = ", &[]).ends_with("line 3"));
    assert!(error_of("log = \"info\"\nlog = \"info\"", &[]).ends_with("line 2"));
}

#[test]
fn errors_and_config_show_contain_no_secret() {
    const SECRET: &str = "canary-canary";
    let secret = format!(
        "admin_password = \"{SECRET}\"\ndatabase_url = \"postgres://u:{SECRET}@h/d?password={SECRET}\"\n\
         audit_webhook_url = \"https://receiver/{SECRET}\"\naudit_webhook_secret = \"{SECRET}-{SECRET}\""
    );
    let configuration = read(&secret, &[], Flags::default()).unwrap_or_else(|message| panic!("{message}"));
    let shown = configuration.show();
    assert!(!shown.contains(SECRET), "{shown}");
    assert!(shown.contains("admin_password") && shown.contains("postgres://h:5432/d"), "{shown}");
    assert!(!format!("{:?}", configuration.settings).contains(SECRET));
    for broken in [
        format!("admin_password = \"{SECRET}"),
        format!("admin_password = {SECRET}"),
        format!("admin_password = [\"{SECRET}\"]"),
        format!("database_url = {{a = \"{SECRET}\"}}"),
        format!("audit_webhook_url = \"{SECRET}\""),
        format!("audit_webhook_secret = \"{SECRET}\""),
    ] {
        let message = error_of(&broken, &[]);
        assert!(!message.contains(SECRET), "{message}");
    }
}

#[test]
fn egress_rules_exclude_own_listeners_and_database() {
    let file = "listen = \"[::1]:7\"\nmetrics_listen = \"127.0.0.1:8\"\negress_allow_networks = \"10.0.0.0/8,::1\"\n\
        database_url = \"postgres://u:p@one,two:6432/d?sslmode=disable&hostaddr=192.0.2.1,192.0.2.2\"";
    let settings = read(file, &[], Flags::default()).unwrap_or_else(|message| panic!("{message}")).settings;
    let rules = settings.egress(&settings.database().unwrap());
    let own: Vec<_> = rules.own.iter().map(|own| format!("{} {}", own.host, own.port)).collect();
    assert_eq!(own, ["::1 7", "127.0.0.1 8", "one 5432", "two 6432", "192.0.2.1 5432", "192.0.2.2 6432"]);
    assert_eq!(rules.allow_networks, Some("10.0.0.0/8, ::1/128".parse().unwrap()));
    let settings = read("", &[], Flags::default()).unwrap_or_else(|message| panic!("{message}")).settings;
    let rules = settings.egress(&settings.database().unwrap());
    assert_eq!((rules.own.len(), rules.allow_networks, rules.allow_loopback), (1, None, false));
}

#[test]
fn config_show_output_is_a_valid_settings_file() {
    let file = "listen = \"[::1]:7\"\nkey_file = 'a \"b\" \\\\c'\nallow_insecure_tls = true\nread_deadline = \"1m 30s\"";
    let configuration = read(file, &[], Flags::default()).unwrap_or_else(|message| panic!("{message}"));
    let reread =
        read(&configuration.show(), &[], Flags::default()).unwrap_or_else(|message| panic!("{message}"));
    assert_eq!(format!("{:?}", reread.settings), format!("{:?}", configuration.settings));
    for setting in SETTINGS {
        let shown = reread.layers.get(setting).map(|(value, _)| value);
        assert_eq!(shown, configuration.layers.get(setting).map(|(value, _)| value), "{}", setting.key);
        let secret = matches!(
            setting.value_type,
            SettingType::Password | SettingType::Database | SettingType::Webhook
        );
        assert!(!secret || shown.is_none());
    }
}

#[test]
fn second_factor_and_break_glass_settings_are_passed_on() {
    let settings =
        |file: &str| read(file, &[], Flags::default()).unwrap_or_else(|message| panic!("{message}")).settings;
    let defaults = settings("");
    assert_eq!(defaults.second_factor(), SecondFactorSettings::default());
    assert_eq!(defaults.break_glass(), BreakGlassSettings::default(), "nobody");
    let file = "require_second_factor = \"admins\"\nstep_up = \"grants,tokens\"\n\
        break_glass_users = \"ann, Ben\"\nbreak_glass_networks = \"10.0.0.0/8\"";
    let set = settings(file);
    let expected = SecondFactorSettings {
        require: RequireSecondFactor::Admins,
        step_up: StepUp::new([StepUpAction::Grants, StepUpAction::Tokens]),
    };
    assert_eq!(set.second_factor(), expected);
    let users = ["ann", "ben"].map(|name| Username::new(name).unwrap());
    let expected = BreakGlassSettings { users: users.into(), networks: vec!["10.0.0.0/8".parse().unwrap()] };
    assert_eq!(set.break_glass(), expected);
    assert_eq!(settings("step_up = \"none\"").second_factor().step_up, StepUp::new([]));
}
