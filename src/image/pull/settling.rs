//! Layers that ask what lies below them: adapted to it, and where only the order of their entries tells what they mean, unpacked
//! once more on top of it.
//!
//! Takes an unpacked layer and the ones below; gives it in its place; trusts the layers below; refuses what no order explains.

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::{Job, PinnedLayer, Places, Task, Unpacked};
use crate::error::{Error, Kind, Result, Stage};
use crate::image::store::workspace::Workspace;
use crate::image::unpack::protocol::{FaultKind, Open, Report, Work};

impl Job<'_> {
    /// Adapts a layer to those below it, and puts it in its place.
    pub(super) fn settle(
        &self,
        position: usize,
        (mut workspace, mut report): (Workspace, Report),
        places: &Places,
    ) -> Result<PinnedLayer> {
        let mut lower: Vec<PathBuf> = Vec::new();
        for place in places.iter().take(position) {
            let path = place.as_ref().map(|layer| layer.dir.path().to_owned()).ok_or_else(|| {
                Error::new(Stage::Unpack, Kind::Failed, "a layer asks for one below it that is not there")
            })?;
            lower.retain(|known| *known != path);
            lower.push(path);
        }
        let chain_ids = self.config.chain_ids();
        let (Some(diff_id), Some(key), Some(descriptor)) =
            (self.config.diff_ids.get(position), chain_ids.get(position), self.manifest.layers.get(position))
        else {
            return Err(Error::new(Stage::Unpack, Kind::Failed, "a layer has no place in its image"));
        };
        let adapt = |workspace: &Workspace, open: &Open| {
            if open.is_empty() {
                return Ok(Ok(()));
            }
            let work = Work::Settle { lower: lower.clone(), open: open.clone() };
            self.unpacker.settle(&workspace.fs(), &workspace.listing(), work)
        };
        let mut ended = adapt(&workspace, &report.open)?;
        if ended.as_ref().is_err_and(|fault| fault.kind == FaultKind::InTurn) {
            // What was adapted half is of no use, and its bytes do not count twice.
            drop(workspace);
            self.bytes.fetch_sub(report.bytes, Ordering::Relaxed);
            let which = self.which(position);
            self.request.progress.note(&format!("{which} is unpacked again, entry by entry on top of those below"));
            let task = Task { position, descriptor: descriptor.clone(), diff_id: diff_id.clone() };
            (workspace, report) = match self.layer(&task, &lower)? {
                Unpacked::Waiting(again) => *again,
                Unpacked::Stored(layer) => return Ok(*layer),
            };
            ended = adapt(&workspace, &report.open)?;
        }
        ended.map_err(|fault| self.refuse(position, fault))?;
        let record = self.record(key, diff_id, descriptor, &report);
        self.store.publish(workspace, record)
    }
}
