//! A companion before a server that has seen such a build: most results come before they are asked for.

use crate::{ahead::build, serve};
use mortar_companion::{Bounds, Companion, Settings, UpstreamAddress};
use mortar_model::{ActionCache, Context, InstanceName, RequestMetadata};
use mortar_remote::{Endpoint, Options};
use mortar_server::LeaseTerms;
use mortar_services::listener::{self, Listener};
use std::{sync::Arc, time::Duration};

const ACTIONS: usize = 1_500;

#[tokio::test(flavor = "multi_thread")]
async fn results_come_before_they_are_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let url = serve("127.0.0.1:0", directory.path()).await;
    let before = Endpoint::connect(&url, Options::default()).unwrap();
    build(&before, "before", 0..ACTIONS).await;
    crate::ahead::follows(&before, 0, 1_000).await;

    let settings = Settings {
        directory: directory.path().join("companion"),
        max_size: 1 << 30,
        leases: LeaseTerms::default(),
        upstreams: vec![UpstreamAddress { name: InstanceName::default(), uri: url }],
        remote: Options::default(),
        foreign_lease: Duration::from_secs(600),
        owed: Bounds { entries: 100_000, bytes: 256 << 20 },
        write_through: false,
        breaker: mortar_remote::breaker::Terms::default(),
    };
    let companion = Companion::assemble(settings).unwrap();
    let listener = Listener::bind(&"127.0.0.1:0".parse().unwrap()).await.unwrap();
    let client = Endpoint::connect(&listener.url(), Options::default()).unwrap();
    let serving =
        tokio::spawn(listener::serve(listener, companion.router(Default::default()), std::future::pending()));
    let request = RequestMetadata { tool_invocation_id: "now".into(), ..RequestMetadata::default() };
    let context = Context { request: Arc::new(request), ..Context::default() };
    for number in 0..ACTIONS {
        let found = client.get(&context, crate::ahead::key(number)).await.unwrap();
        assert!(found.is_some(), "{number}");
    }
    let (sent_ahead, used) = companion.sent_ahead();
    // The first ones are asked for while the look is on its way, others while they are.
    assert!(sent_ahead > ACTIONS as u64 / 2, "{sent_ahead}");
    assert!(used > 0, "{used} of {sent_ahead}");
    serving.abort();
    companion.close().await;
}
