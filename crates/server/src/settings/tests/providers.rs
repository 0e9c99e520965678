//! Settings of identity providers.

use super::*;

const OIDC: &str = "id = \"corp\"\nlabel = \"Corp\"\nissuer = \"https://id.example.com/realms/corp\"\n\
    client_id = \"pilothouse\"\nclient_secret_file = \"/etc/pilothouse/oidc-secret\"\n";
const LDAP: &str = "id = \"directory\"\nlabel = \"Directory\"\nurl = \"ldaps://ldap.example.com\"\n\
    bind_dn = \"cn=search\"\nbind_password_file = \"/etc/pilothouse/ldap-password\"\n\
    user_base = \"ou=people\"\ngroup_base = \"ou=groups\"\n";

/// A file with these tables `[[oidc]]` and `[[ldap]]`.
fn file(oidc: &[&str], ldap: &[&str]) -> String {
    let tables = |name: &str, tables: &[&str]| -> String {
        tables.iter().map(|table| format!("[[{name}]]\n{table}\n")).collect()
    };
    format!(
        "public_url = \"https://pilothouse.example.com\"\n{}{}",
        tables("oidc", oidc),
        tables("ldap", ldap)
    )
}

#[test]
fn provider_tables_have_defaults() {
    let read =
        read(&file(&[OIDC], &[LDAP]), &[], Flags::default()).unwrap_or_else(|message| panic!("{message}"));
    let [oidc] = read.settings.oidc_providers() else { panic!("one table") };
    let [ldap] = read.settings.ldap_providers() else { panic!("one table") };
    assert_eq!((&*oidc.id, &*oidc.scopes, &*oidc.groups_claim), ("corp", "openid profile", "groups"));
    assert_eq!((&*oidc.username_claim, oidc.userinfo), ("preferred_username", false));
    assert_eq!(
        (&*ldap.id, &*ldap.user_filter, &*ldap.group_filter),
        ("directory", "(uid={username})", "(member={dn})")
    );
    assert_eq!((&*ldap.group_name, ldap.start_tls, ldap.trusts_second_factor), ("cn", false, false));
}

#[test]
fn environment_variable_is_an_array_of_inline_tables() {
    let inline = |table: &str| format!("[{{{}}}]", table.trim().replace('\n', ", "));
    let other = inline(&LDAP.replace("directory", "other"));
    let environment = [("PILOTHOUSE_LDAP", other.as_str())];
    let read = read(&file(&[], &[LDAP]), &environment, Flags::default())
        .unwrap_or_else(|message| panic!("{message}"));
    let [ldap] = read.settings.ldap_providers() else {
        panic!("the variable replaces the tables of the file")
    };
    assert_eq!((&*ldap.id, &*ldap.group_name), ("other", "cn"));
    for text in ["corp", "[]\nlisten = \"127.0.0.1:1\"", "{}", "[1]"] {
        let message = error_of("", &[("PILOTHOUSE_OIDC", text)]);
        assert!(message.contains("`oidc` (environment PILOTHOUSE_OIDC)"), "{message}");
    }
}

#[test]
fn invalid_provider_tables_are_refused_by_key() {
    let replaced = |table: &str, key: &str, value: &str| -> String {
        let lines = table.lines().filter(|line| !line.starts_with(&format!("{key} =")));
        lines.chain([format!("{key} = {value}").as_str()]).map(|line| format!("{line}\n")).collect()
    };
    for (key, value) in [
        ("id", "\"local\""),
        ("id", "\"sa\""),
        ("id", "\"Corp\""),
        ("id", "\"\""),
        ("label", "\" \""),
        ("issuer", "\"http://id.example.com\""),
        ("issuer", "\"https://user@id.example.com\""),
        ("issuer", "\"https://id.example.com/?a=b\""),
        ("client_id", "1"),
        ("client_secret", "1"),
        ("scopes", "\"profile\""),
        ("scopes", "[\"openid\"]"),
        ("userinfo", "\"yes\""),
        ("trusts_second_factor", "1"),
    ] {
        let message = error_of(&file(&[OIDC, &replaced(OIDC, key, value)], &[]), &[]);
        assert!(message.contains(&format!("`oidc[1].{key}` (file ")), "{key} = {value}: {message}");
    }
    for (key, value) in [
        ("url", "\"https://ldap.example.com\""),
        ("url", "\"ldaps://ldap.example.com/dc=example\""),
        ("start_tls", "\"no\""),
        ("user_filter", "\"(uid=mei)\""),
        ("user_filter", "\"uid={username}\""),
        ("user_filter", "\"(uid={username}\""),
        ("user_filter", "\"(uid={username}{dn})\""),
        ("group_filter", "\"(memberUid={username})\""),
    ] {
        let message = error_of(&file(&[], &[&replaced(LDAP, key, value)]), &[]);
        assert!(message.contains(&format!("`ldap[0].{key}` (file ")), "{key} = {value}: {message}");
    }
    let message = error_of(&file(&[&replaced(OIDC, "colour", "1")], &[]), &[]);
    assert!(message.contains("there is no setting `oidc[0].colour`"), "{message}");
    let message = error_of(&file(&["id = \"corp\""], &[]), &[]);
    assert!(message.contains("`oidc[0].label`") && message.ends_with("must be set"), "{message}");
    assert!(error_of("oidc = 1", &[]).contains("`oidc`"));
    assert!(error_of("public_url = \"https://h/path\"", &[]).contains("`public_url`"));
    assert!(error_of("public_url = \"http://h\"", &[]).contains("`public_url`"));
}

#[test]
fn combinations_of_provider_settings_are_checked() {
    let refused = |file: &str, expected: &str| {
        let message = error_of(file, &[]);
        assert!(message.contains(expected), "{message}");
    };
    let both = format!("{OIDC}client_secret = \"s\"");
    refused(&file(&[&both], &[]), "the provider `corp` must have either client_secret or client_secret_file");
    let neither = OIDC.replace("client_secret_file = \"/etc/pilothouse/oidc-secret\"", "");
    refused(&file(&[&neither], &[]), "client_secret_file");
    refused(&file(&[], &[&format!("{LDAP}bind_password = \"s\"")]), "bind_password_file");
    refused(&file(&[], &[&format!("{LDAP}start_tls = true")]), "start_tls");
    refused(&file(&[], &[&LDAP.replace("ldaps://", "ldap://")]), "must use TLS");
    refused(&file(&[OIDC], &[&LDAP.replace("directory", "corp")]), "two providers have the id `corp`");
    refused(&format!("[[oidc]]\n{OIDC}"), "public_url");
    for ldap in [
        LDAP.replace("ldaps://ldap.example.com", "ldap://127.0.0.1:389"),
        LDAP.replace("ldaps://", "ldap://") + "start_tls = true",
    ] {
        assert!(read(&file(&[], &[&ldap]), &[], Flags::default()).is_ok(), "{ldap}");
    }
}

#[test]
fn config_show_prints_provider_tables_without_secrets() {
    let directory =
        LDAP.replace("bind_password_file = \"/etc/pilothouse/ldap-password\"", "bind_password = \"canary\"");
    let configuration = read(&file(&[OIDC], &[&directory]), &[], Flags::default())
        .unwrap_or_else(|message| panic!("{message}"));
    let shown = configuration.show();
    assert!(
        !shown.contains("canary") && !format!("{:?}", configuration.settings).contains("canary"),
        "{shown}"
    );
    assert!(
        shown.contains("\n# [[ldap]]  # file ") && shown.contains("\n# bind_password is set and not shown\n")
    );
    let again = read(&shown, &[], Flags::default()).unwrap_or_else(|message| panic!("{message}")).settings;
    assert_eq!(format!("{:?}", again.oidc), format!("{:?}", configuration.settings.oidc));
    assert!(again.ldap.is_none(), "a table without its secret is a comment");
}

#[test]
fn provider_may_be_on_loopback_only_if_its_url_names_it() {
    let file = "public_url = \"https://pilothouse.example.com/\"\negress_allow_networks = \"10.0.0.0/8\"\nlisten = \"[::1]:7\"";
    let settings = read(file, &[], Flags::default()).unwrap_or_else(|message| panic!("{message}")).settings;
    let database = settings.database().unwrap();
    for (url, allowed) in [
        ("https://id.example.com", false),
        ("https://127.0.0.1.example.com", false),
        ("https://127.0.0.1:8443/realms/corp", true),
        ("ldap://localhost", true),
        ("ldaps://[::1]:636", true),
    ] {
        let rules = settings.egress_to_provider(&database, url);
        assert_eq!(
            (rules.allow_loopback, rules.allow_networks, rules.own.len()),
            (allowed, None, 1),
            "{url}"
        );
    }
    let uri = "https://pilothouse.example.com/api/auth/oidc/corp/callback";
    assert_eq!((settings.redirect_uri("corp").as_str(), settings.is_public_https()), (uri, true));
}
