use rustls_pki_types::CertificateDer;
use tsoracle_core::Identity;
use x509_parser::{extensions::GeneralName, parse_x509_certificate};

/// What begins the names that `tsoracle cert` puts into certificates of clients.
const CLIENT: &str = "tsoracle:client/";

/// The names that a certificate gives its holder, in the order in which they are looked for in a policy: those of
/// `tsoracle cert`, the common name, then all alternative names.
///
/// Its authority vouches for all of them.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<Identity> {
    let Ok((_, certificate)) = parse_x509_certificate(certificate) else { return vec![] };
    let alternatives = certificate.subject_alternative_name().ok().flatten();
    let alternatives = alternatives.map_or(&[][..], |names| &names.value.general_names);
    let own = alternatives.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(CLIENT),
        _ => None,
    });
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let others = alternatives.iter().filter_map(|name| match name {
        GeneralName::URI(uri) if !uri.starts_with(CLIENT) => Some(*uri),
        GeneralName::DNSName(name) | GeneralName::RFC822Name(name) => Some(*name),
        _ => None,
    });
    own.chain(common).chain(others).filter_map(|name| Identity::new(name).ok()).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair, SanType};

    use super::*;

    fn names_of(common: &str, alternatives: &[SanType]) -> Vec<String> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, common);
        params.subject_alt_names = alternatives.to_vec();
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        names(certificate.der()).into_iter().map(Into::into).collect()
    }

    #[test]
    fn the_name_that_was_meant_for_us_comes_first() {
        let uri = |text: &str| SanType::URI(text.try_into().unwrap());
        let dns = SanType::DnsName("billing.internal".try_into().unwrap());
        let spiffe = uri("spiffe://house/billing");
        let given = [spiffe, dns, uri("tsoracle:client/billing")];
        let expected = ["billing", "Billing Service", "spiffe://house/billing", "billing.internal"];
        assert_eq!(names_of("Billing Service", &given), expected);
        assert_eq!(names_of("billing", &[]), ["billing"]);
    }

    #[test]
    fn what_is_no_name_is_left_out() {
        assert_eq!(names_of("a\nb", &[]), Vec::<String>::new());
        assert_eq!(names(&CertificateDer::from(vec![1, 2, 3])), []);
    }
}
