//! LDAP server: OpenLDAP's slapd, unpacked from Debian's packages without an installation.

use std::{fs, path::PathBuf, process::Command, time::Duration};

use super::{
    USERS, or_skip, parts, password_of,
    process::{Process, run},
};
use crate::{
    ServingCertificate,
    certificates::Authority,
    error::{Result, io},
    folder::Folder,
    ports::Port,
};

const START_TIMEOUT: Duration = Duration::from_secs(30);
const BASE: &str = "dc=example,dc=test";
const ADMIN_PASSWORD: &str = "password of the directory's admin";
const SEARCH_PASSWORD: &str = "password of the search account";

/// An LDAP server with users below `ou=people` and groups (`groupOfNames`) below `ou=groups`. The server refuses a bind
/// with an empty password only if it is not `lax`.
pub struct Slapd {
    process: Process,
    program_root: PathBuf,
    port: Port,
    folder: Folder,
}

impl Slapd {
    /// Starts a server. With `lax`, the server accepts a bind with a name and an empty password as an anonymous bind, as
    /// Active Directory does.
    ///
    /// # Errors
    /// [`Error::IdentityUnavailable`](crate::Error::IdentityUnavailable) names what is missing on this machine.
    pub fn start_new(lax: bool) -> Result<Self> {
        let program_root = parts::slapd()?.join("root");
        let (folder, port) = (Folder::create()?, Port::claim()?);
        let process = Process::new("slapd", &folder);
        let slapd = Self { process, program_root, port, folder };
        let authority = Authority::new("pilothouse-testbed")?;
        let pair = authority.serving(ServingCertificate::Valid)?;
        slapd.write("ca.crt", &authority.pem())?;
        slapd.write("server.crt", &pair.certificate)?;
        slapd.write("server.key", &pair.key)?;
        slapd.write("slapd.conf", &slapd.configuration(lax))?;
        slapd.write("base.ldif", &base())?;
        fs::create_dir(slapd.file("db")).map_err(io("creating the directory of slapd's database"))?;
        run(slapd
            .program("usr/sbin/slapd")
            .args(["-T", "add", "-f"])
            .arg(slapd.file("slapd.conf"))
            .arg("-l")
            .arg(slapd.file("base.ldif")))?;
        slapd.start()?;
        Ok(slapd)
    }

    /// As [`start_new`](Self::start_new), but if this machine cannot run slapd, prints a message and returns `None`, so
    /// that the test can be skipped. With `PILOTHOUSE_TEST_REQUIRE_IDENTITY` set, that is an error.
    pub fn start_or_skip(lax: bool) -> Result<Option<Self>> {
        or_skip(Self::start_new(lax))
    }

    /// `ldap://127.0.0.1:…`, without TLS and with StartTLS.
    pub fn url(&self) -> String {
        format!("ldap://127.0.0.1:{}", self.port.number())
    }

    /// `ldaps://127.0.0.1:…`
    pub fn tls_url(&self) -> String {
        format!("ldaps://127.0.0.1:{}", self.port.next())
    }

    /// The PEM file with the certificate of the authority that signed the server's certificate.
    pub fn ca_file(&self) -> PathBuf {
        self.file("ca.crt")
    }

    /// DN of the account that may search.
    pub fn search_dn(&self) -> String {
        format!("cn=search,{BASE}")
    }

    /// Password of the account that may search.
    pub fn search_password(&self) -> &'static str {
        SEARCH_PASSWORD
    }

    /// DN of the folder of users.
    pub fn user_base(&self) -> String {
        format!("ou=people,{BASE}")
    }

    /// DN of the folder of groups.
    pub fn group_base(&self) -> String {
        format!("ou=groups,{BASE}")
    }

    /// DN of a user.
    pub fn user_dn(&self, user: &str) -> String {
        format!("uid={user},{}", self.user_base())
    }

    /// Changes entries, by LDIF with `changetype`.
    pub fn modify(&self, ldif: &str) -> Result<()> {
        self.write("change.ldif", ldif)?;
        run(self
            .program("usr/bin/ldapmodify")
            .args(["-x", "-H", &self.url(), "-D", &format!("cn=admin,{BASE}"), "-w", ADMIN_PASSWORD, "-f"])
            .arg(self.file("change.ldif")))
    }

    /// Removes a user from a group.
    pub fn leave_group(&self, user: &str, group: &str) -> Result<()> {
        let (group, user) = (format!("cn={group},{}", self.group_base()), self.user_dn(user));
        self.modify(&format!("dn: {group}\nchangetype: modify\ndelete: member\nmember: {user}\n"))
    }

    /// Removes a user.
    pub fn remove_user(&self, user: &str) -> Result<()> {
        self.modify(&format!("dn: {}\nchangetype: delete\n", self.user_dn(user)))
    }

    /// The names of all binds since the last start, in their order.
    pub fn binds(&self) -> Vec<String> {
        let log = self.process.log();
        let binds =
            log.lines().filter_map(|line| line.split_once(" BIND dn=\"")?.1.split_once("\" method=128"));
        binds.map(|(name, _)| name.to_owned()).collect()
    }

    /// The filters of all searches since the last start, in their order.
    pub fn filters(&self) -> Vec<String> {
        let log = self.process.log();
        let searches = log.lines().filter(|line| line.contains(" SRCH base="));
        let filters = searches.filter_map(|line| line.split_once(" filter=\"")?.1.strip_suffix('"'));
        filters.map(str::to_owned).collect()
    }

    /// Ends the server's process.
    pub fn stop(&self) {
        self.process.stop();
    }

    /// Starts the server with the same address and entries, and an empty log.
    pub fn start(&self) -> Result<()> {
        let mut command = self.program("usr/sbin/slapd");
        // the log of the level `stats` has a line per bind and per search
        command.args(["-d", "stats", "-f"]).arg(self.file("slapd.conf"));
        command.args(["-h", &format!("{} {}", self.url(), self.tls_url())]);
        self.process.start(&mut command, "slapd starting", START_TIMEOUT)
    }

    fn configuration(&self, lax: bool) -> String {
        let (root, folder) = (self.program_root.display(), self.folder.path().display());
        let allow = if lax { "allow bind_anon_dn\n" } else { "" };
        format!(
            "include {root}/etc/ldap/schema/core.schema
include {root}/etc/ldap/schema/cosine.schema
include {root}/etc/ldap/schema/inetorgperson.schema
modulepath {root}/usr/lib/ldap
moduleload back_mdb
TLSCertificateFile {folder}/server.crt
TLSCertificateKeyFile {folder}/server.key
{allow}database mdb
suffix \"{BASE}\"
rootdn \"cn=admin,{BASE}\"
rootpw \"{ADMIN_PASSWORD}\"
directory {folder}/db
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact=\"cn=search,{BASE}\" read by * none
"
        )
    }

    fn program(&self, path: &str) -> Command {
        let libraries =
            ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"].map(|path| self.program_root.join(path));
        let libraries = libraries.map(|path| path.display().to_string()).join(":");
        let mut command = Command::new(self.program_root.join(path));
        // without LDAPNOINIT the commands read the machine's settings
        command.env("LD_LIBRARY_PATH", libraries).env("LDAPNOINIT", "1").current_dir(self.folder.path());
        command
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        fs::write(self.file(name), text).map_err(io(format!("writing {name}")))
    }
}

/// The entries as LDIF. A group needs a member, so the search account is in each.
fn base() -> String {
    let mut ldif = format!(
        "dn: {BASE}\nobjectClass: dcObject\nobjectClass: organization\no: Example\ndc: example\n\n\
         dn: ou=people,{BASE}\nobjectClass: organizationalUnit\nou: people\n\n\
         dn: ou=groups,{BASE}\nobjectClass: organizationalUnit\nou: groups\n\n\
         dn: cn=search,{BASE}\nobjectClass: organizationalRole\nobjectClass: simpleSecurityObject\ncn: search\n\
         userPassword: {SEARCH_PASSWORD}\n\n"
    );
    for (user, _) in USERS {
        ldif.push_str(&format!(
            "dn: uid={user},ou=people,{BASE}\nobjectClass: inetOrgPerson\nuid: {user}\ncn: {user}\nsn: {user}\n\
             mail: {user}@example.test\nuserPassword: {}\n\n",
            password_of(user)
        ));
    }
    for group in ["shop-dev", "shop-ops"] {
        ldif.push_str(&format!(
            "dn: cn={group},ou=groups,{BASE}\nobjectClass: groupOfNames\ncn: {group}\nmember: cn=search,{BASE}\n"
        ));
        for (user, _) in USERS.iter().filter(|(_, groups)| groups.contains(&group)) {
            ldif.push_str(&format!("member: uid={user},ou=people,{BASE}\n"));
        }
        ldif.push('\n');
    }
    ldif
}
