//! The life of a companion: one for each directory, found by its address there ([`home`]), on sockets that are opened,
//! inherited or taken over ([`sockets`], [`hand_over`]), until it is idle or told to end.

pub mod hand_over;
pub mod home;
pub mod sockets;

pub use home::{Home, Ownership, Taken, Whereabouts};
pub use sockets::Sockets;

use crate::{
    admin,
    assemble::{Companion, Settings},
};
use axum::Router;
use mortar_model::Result;
use mortar_services::listener;
use mortar_wire::companion::companion_server::CompanionServer;
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio_util::sync::CancellationToken;

/// How long open calls may take to end, once the companion is to.
const LINGER: Duration = Duration::from_secs(10);
/// How often it is looked whether anybody needs it.
const LOOK: Duration = Duration::from_millis(500);

/// Serves until `stop` is cancelled, or until nobody has called for `idle`. `ready` is told once calls are answered. Who
/// gets the ownership back keeps it until the process ends.
pub async fn serve(
    ownership: Ownership,
    settings: Settings,
    sockets: Sockets,
    idle: Duration,
    stop: CancellationToken,
    ready: impl FnOnce(&Whereabouts, &Arc<Companion>) -> Result<()>,
) -> Result<Ownership> {
    let companion = Arc::new(Companion::assemble(settings)?);
    let Sockets { tcp, unix } = sockets;
    let whereabouts = ownership.whereabouts(&tcp, &unix);
    let admin = CompanionServer::new(admin::Service {
        companion: companion.clone(),
        whereabouts: whereabouts.clone(),
        started: SystemTime::now(),
        stop: stop.clone(),
        sockets: [tcp.spare()?, unix.spare()?],
    });
    let mut own = tonic::service::Routes::builder();
    own.add_service(admin);
    let own = own.routes().into_axum_router().reset_fallback();

    let drained = CancellationToken::new();
    let serving = {
        let (outside, inside) = (companion.router(Router::new()), companion.router(own));
        let (tcp_end, unix_end) = (drained.clone().cancelled_owned(), drained.clone().cancelled_owned());
        tokio::spawn(async move {
            tokio::join!(listener::serve(tcp, outside, tcp_end), listener::serve(unix, inside, unix_end));
        })
    };
    ownership.announce(&whereabouts)?;
    ready(&whereabouts, &companion)?;
    companion.greet();
    let unused = unused(&companion, idle);
    tokio::select! {
        () = stop.cancelled() => {}
        () = unused => tracing::info!("nobody has called for a while: the companion ends"),
    }
    ownership.leave();
    drained.cancel();
    if tokio::time::timeout(LINGER, serving).await.is_err() {
        tracing::info!("calls that do not end are cut off");
    }
    companion.close().await;
    Ok(ownership)
}

/// Returns when nobody has called for so long, and nothing that is owed can be uploaded.
async fn unused(companion: &Companion, idle: Duration) {
    loop {
        tokio::time::sleep(LOOK.min(idle)).await;
        if companion.activity().idle() >= idle && !companion.can_pay() {
            return;
        }
    }
}
