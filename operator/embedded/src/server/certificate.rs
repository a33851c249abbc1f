//! Owns the server's certificate: an authority of its own, made once, and a server certificate for loopback.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{ServerError, private};

/// What the listener and the kubeconfig need.
pub struct Certificate {
    /// The authority's certificate, PEM.
    pub authority: String,
    /// TLS with the server's certificate.
    pub server: ServerConfig,
}

fn failed(error: impl std::fmt::Display) -> ServerError {
    ServerError::Certificate(error.to_string())
}

fn authority_parameters() -> Result<CertificateParams, ServerError> {
    let mut parameters = CertificateParams::new(Vec::<String>::new()).map_err(failed)?;
    parameters
        .distinguished_name
        .push(DnType::CommonName, "bessemer local authority");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(parameters)
}

/// Reads the authority in `directory`, or makes it, and signs a server certificate with it.
pub fn open(directory: &Path) -> Result<Certificate, ServerError> {
    let (key_path, authority_path) = (
        directory.join("authority.key"),
        directory.join("authority.pem"),
    );
    let file = |path: &Path, error: std::io::Error| ServerError::File {
        path: path.display().to_string(),
        message: error.to_string(),
    };
    let kept = std::fs::read_to_string(&key_path)
        .ok()
        .zip(std::fs::read_to_string(&authority_path).ok());
    let (key, authority) = match kept {
        Some((key, authority)) => (KeyPair::from_pem(&key).map_err(failed)?, authority),
        None => {
            let key = KeyPair::generate().map_err(failed)?;
            let authority = authority_parameters()?
                .self_signed(&key)
                .map_err(failed)?
                .pem();
            private::write(&key_path, key.serialize_pem().as_bytes())
                .map_err(|e| file(&key_path, e))?;
            private::write(&authority_path, authority.as_bytes())
                .map_err(|e| file(&authority_path, e))?;
            (key, authority)
        }
    };
    let issuer = Issuer::new(authority_parameters()?, key);
    let names = ["localhost", "127.0.0.1", "kubernetes.default.svc"].map(str::to_owned);
    let mut parameters = CertificateParams::new(names).map_err(failed)?;
    parameters
        .distinguished_name
        .push(DnType::CommonName, "bessemer local");
    let server_key = KeyPair::generate().map_err(failed)?;
    let certificate = parameters.signed_by(&server_key, &issuer).map_err(failed)?;
    let chain = vec![CertificateDer::from(certificate.der().to_vec())];
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(server_key.serialize_der()));
    let mut server = ServerConfig::builder_with_provider(ring::default_provider().into())
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(failed)?;
    server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Certificate { authority, server })
}
