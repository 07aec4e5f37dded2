//! AWS: keys by the default chain (`chain`), and signatures over requests made with them (`sign`).
//!
//! AWS has no tokens for servers of others. Its keys are of use where AWS itself stands before a server and checks
//! signatures (Signature Version 4): HTTP caches in S3, gRPC services behind VPC Lattice, HTTP ones behind an API
//! gateway. Bodies are left unsigned, since a stream has no hash before its end; TLS protects them. A service that wants
//! them signed refuses such requests.

mod chain;
mod sign;

pub use chain::Chain;
pub use sign::{Keys, Signer};

use super::{Credentials, Grant, Proof};
use async_trait::async_trait;
use http::Uri;
use mortar_model::Result;

/// Signs requests with the keys of the default chain.
#[derive(Clone, Debug)]
pub struct Aws {
    /// Where keys come from.
    pub chain: Chain,
    /// Such as `eu-central-1`.
    pub region: String,
    /// Such as `s3`, `vpc-lattice-svcs`, `execute-api`.
    pub service: String,
}

#[async_trait]
impl Credentials for Aws {
    fn name(&self) -> String {
        "the default chain of AWS".into()
    }

    async fn grant(&self, _: &Uri) -> Result<Grant> {
        let (keys, expires) = self.chain.keys().await?;
        let signer = Signer { keys, region: self.region.clone(), service: self.service.clone() };
        Ok(Grant { proof: Proof::Signature(signer), expires, look_again: None })
    }
}
