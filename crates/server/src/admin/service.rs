//! `mortar.admin.v1`: what is asked of the owner of a data directory. Errors are told in full, paths and causes
//! included: who asks is the owner's own user.

use super::convert;
use crate::care::Care;
use futures::{StreamExt, stream, stream::BoxStream};
use mortar_model::{Error, InstanceName, Kind};
use mortar_scheduler::Scheduler;
use mortar_wire::{
    admin::{
        GetOwnerRequest, GetStatsRequest, ImportProgress, ImportRequest, Owner, PurgeRequest, PurgeResponse,
        Stats, TendWorkersRequest, TendWorkersResponse, VerifyProgress, VerifyRequest,
        admin_server::{Admin, AdminServer},
        tend_workers_request::Wish,
    },
    status::code,
};
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

/// Progress is told so often.
const TELL: Duration = Duration::from_millis(100);
/// Progress of an import is told every so many files.
const FILES: u64 = 16;
/// Messages that wait for a slow listener; progress beyond them is left out.
const WAITING: usize = 16;

/// The service over what it cares for.
pub struct AdminService {
    care: Care,
    /// Who has the workers, where a server runs on the directory.
    scheduler: Option<Scheduler>,
    stop: CancellationToken,
}

/// The service, whose streams end when `stop` is cancelled.
pub fn service(
    care: Care,
    scheduler: Option<Scheduler>,
    stop: CancellationToken,
) -> AdminServer<AdminService> {
    AdminServer::new(AdminService { care, scheduler, stop })
}

type Answer<T> = Result<Response<T>, Status>;
type Told<T> = BoxStream<'static, Result<T, Status>>;

#[tonic::async_trait]
impl Admin for AdminService {
    async fn get_owner(&self, _: Request<GetOwnerRequest>) -> Answer<Owner> {
        let version = env!("CARGO_PKG_VERSION").into();
        Ok(Response::new(Owner { version, process: std::process::id() }))
    }

    async fn get_stats(&self, _: Request<GetStatsRequest>) -> Answer<Stats> {
        Ok(Response::new(convert::stats(&self.care.stats())))
    }

    async fn verify(&self, request: Request<VerifyRequest>) -> Answer<Told<VerifyProgress>> {
        let steps = self.care.verify(request.into_inner().deep);
        let told = stream::unfold((steps, Vec::new()), |(mut steps, mut findings)| async move {
            let begun = Instant::now();
            while let Some(step) = steps.next().await {
                let step = match step {
                    Ok(step) => step,
                    Err(error) => return Some((Err(status(&error)), (steps, findings))),
                };
                findings.extend(step.findings.iter().map(convert::finding));
                if step.finished || begun.elapsed() >= TELL {
                    let told = convert::verify_progress(&step, std::mem::take(&mut findings));
                    return Some((Ok(told), (steps, findings)));
                }
            }
            None
        });
        Ok(Response::new(told.take_until(self.stop.clone().cancelled_owned()).boxed()))
    }

    async fn purge(&self, request: Request<PurgeRequest>) -> Answer<PurgeResponse> {
        let (purge, dry_run) = convert::purge(request.into_inner()).map_err(|error| status(&error))?;
        let purged = self.care.purge(&purge, dry_run).await.map_err(|error| status(&error))?;
        if !dry_run {
            tracing::info!(?purge, ?purged, "purged");
        }
        Ok(Response::new(convert::purged(purged)))
    }

    async fn import(&self, request: Request<ImportRequest>) -> Answer<Told<ImportProgress>> {
        let ImportRequest { source, instance } = request.into_inner();
        let instance = InstanceName::parse(&instance).map_err(|error| status(&error))?;
        let (sender, receiver) = mpsc::channel(WAITING);
        let (care, source) = (self.care.clone(), PathBuf::from(source));
        tokio::spawn(async move {
            let progress = sender.clone();
            let tell = move |now: mortar_store::import::Progress| {
                if now.files.is_multiple_of(FILES) {
                    let _ = progress.try_send(Ok(convert::import_progress(now, None)));
                }
            };
            let outcome = tokio::select! {
                outcome = care.import(&source, instance, &tell) => outcome,
                // Nobody listens any more.
                () = sender.closed() => return,
            };
            let last = match outcome {
                Ok(report) => Ok(convert::import_progress(report.progress, Some(&report))),
                Err(error) => Err(status(&error)),
            };
            let _ = sender.send(last).await;
        });
        let told = tokio_stream::wrappers::ReceiverStream::new(receiver);
        Ok(Response::new(told.take_until(self.stop.clone().cancelled_owned()).boxed()))
    }

    async fn tend_workers(&self, request: Request<TendWorkersRequest>) -> Answer<TendWorkersResponse> {
        let request = request.into_inner();
        self.tend(&request).await.map_err(|error| status(&error))?;
        tracing::info!(worker = request.name, wish = request.wish().as_str_name(), "workers were told");
        Ok(Response::new(TendWorkersResponse {}))
    }
}

impl AdminService {
    async fn tend(&self, request: &TendWorkersRequest) -> mortar_model::Result<()> {
        let alone = || Error::new(Kind::FailedPrecondition { message: "no server runs here".to_owned() });
        let scheduler = self.scheduler.as_ref().ok_or_else(alone)?;
        let told = match request.wish() {
            Wish::Pause => scheduler.pause(&request.name).await,
            Wish::Resume => scheduler.resume_worker(&request.name).await,
            Wish::Drain => scheduler.drain(&request.name).await,
            Wish::Unspecified => Err(Error::invalid("wish", "the field `wish` is absent")),
        };
        told.map_err(|error| match error.kind() {
            Kind::NotFound { .. } => error.hint("`mortar status` lists the workers of a server"),
            _ => error,
        })
    }
}

fn status(error: &Error) -> Status {
    Status::new(code(error), error.to_string())
}
