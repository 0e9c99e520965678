//! Certificates of one control plane: valid ones, and invalid ones for fault tests.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};

use crate::error::Result;

/// A certificate and its private key, both PEM.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) certificate: String,
    pub(crate) key: String,
}

/// Serving certificate of the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServingCertificate {
    /// Valid name, authority and dates.
    #[default]
    Valid,
    /// Expired in 2020.
    Expired,
    /// Signed by an authority that is not in the kubeconfigs.
    OtherAuthority,
    /// Issued for another name and address.
    OtherName,
}

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    pub(crate) fn new(name: &str) -> Result<Self> {
        let mut params = params(name, None);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    /// A client certificate. The API server uses the common name as user and the organisation as group.
    pub(crate) fn client(&self, user: &str, group: Option<&str>) -> Result<Pair> {
        self.sign(params(user, group), ExtendedKeyUsagePurpose::ClientAuth)
    }

    /// A serving certificate of the API server.
    pub(crate) fn serving(&self, which: ServingCertificate) -> Result<Pair> {
        let names = match which {
            ServingCertificate::OtherName => ["elsewhere.invalid", "192.0.2.1"].as_slice(),
            _ => &["localhost", "kubernetes.default.svc", "127.0.0.1", "10.96.0.1"],
        };
        let mut params = params("kube-apiserver", None);
        let names: Vec<String> = names.iter().map(|name| (*name).into()).collect();
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        if which == ServingCertificate::Expired {
            params.not_after = date_time_ymd(2020, 2, 1);
        }
        match which {
            ServingCertificate::OtherAuthority => {
                Self::new("another authority")?.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
            }
            _ => self.sign(params, ExtendedKeyUsagePurpose::ServerAuth),
        }
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Pair> {
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        Ok(Pair { certificate: params.signed_by(&key, &self.0)?.pem(), key: key.serialize_pem() })
    }
}

/// The private and public key that sign and verify service account tokens, PEM.
pub(crate) fn signing_keys() -> Result<(String, String)> {
    let key = KeyPair::generate()?;
    Ok((key.serialize_pem(), key.public_key_pem()))
}

fn params(common_name: &str, organisation: Option<&str>) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.remove(DnType::CommonName);
    params.distinguished_name.push(DnType::CommonName, common_name);
    if let Some(organisation) = organisation {
        params.distinguished_name.push(DnType::OrganizationName, organisation);
    }
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2120, 1, 1);
    params
}
