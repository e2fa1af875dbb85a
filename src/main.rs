//! try
#![allow(clippy::all, missing_docs, unused)]
use ces::bundle::{identity::*, rootfs::*};
use ces::host::{caller::Caller, dirs::Dirs};
use ces::run::*;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some("__unpack") {
        return ces::image::unpack::child_main();
    }
    if std::env::args().nth(1).as_deref() == Some("__stage") {
        return ExitCode::from(stage::child_main());
    }
    match go() {
        Ok(c) => ExitCode::from(c),
        Err(e) => {
            eprint!("{}", e.report());
            ExitCode::from(125)
        }
    }
}
fn go() -> ces::error::Result<u8> {
    let caller = Caller::find()?;
    let identity = Identity::new(&caller, 0, 0, vec![])?;
    let id = job::JobId::new()?;
    let spec: oci_spec::runtime::Spec = serde_json::from_slice(&std::fs::read("/tmp/t/config.json").unwrap()).unwrap();
    let engine: oci_spec::runtime::Spec =
        serde_json::from_slice(&std::fs::read("/tmp/t/engine.json").unwrap()).unwrap();
    let work = std::path::PathBuf::from(format!("/tmp/t/work/{id}"));
    let journal = job::Journal {
        id: id.clone(),
        pid: std::process::id(),
        name: None,
        image: "x".into(),
        researcher: caller.name.clone(),
        uid: caller.uid.as_raw(),
        started: record::now(),
        work: work.clone(),
        home: caller.home.clone(),
        scratch: format!("scratch_{id}"),
        outputs: format!("outputs_{id}"),
        record: "/tmp/t/r".into(),
    };
    let dirs = Dirs::new(&caller, Some(std::path::Path::new("/tmp/t/root")));
    let job = job::Job::begin(&dirs, &identity, journal)?;
    let b = |s: std::path::PathBuf, d: &str| Bind {
        source: s,
        destination: d.into(),
        read_only: false,
        opened_as: identity.researcher(),
        follow: false,
    };
    let plan = Plan {
        layers: vec!["/tmp/t/layer".into()],
        work: work.clone(),
        binds: vec![b(job.outputs(), "/safe_outputs"), b(job.scratch(), "/scratch")],
        root_ids: identity.root(),
        cover: work,
    };
    let r = launch::launch(
        launch::Launch {
            id: &id,
            identity: &identity,
            spec: &spec,
            engine_spec: engine,
            plan,
            limits_required: true,
            time: None,
        },
        |c| {
            if std::env::var_os("SHOW").is_some() {
                eprintln!("{}", serde_json::to_string_pretty(&c.enforced).unwrap());
            }
            Ok(())
        },
    );
    let out = outputs::collect(&job.outputs(), &identity.researcher())?;
    eprintln!("{:?}", r.as_ref().map(|(o, u)| (o, u)).map_err(|e| e.report()));
    job.end(&identity)?;
    Ok(r?.0.ending.exit_status())
}
