//! Files of machine-learning models, known by name and by how they begin; a pickle runs code when it is loaded
//! (Python, "pickle — Warning").

use super::super::zip::Archive;
use super::{Source, split};

/// The largest directory of an archive, and the most members.
const DIRECTORY_MAX: usize = 48 << 20;
const MEMBERS_MAX: usize = 200_000;

/// What a file of a model is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// Weights alone.
    Data(&'static str),
    /// Something that may run code when it is loaded.
    Pickle(&'static str),
}

/// Whether a file's name is that of a model.
pub fn may_be(path: &str) -> bool {
    const EXTENSIONS: [&str; 16] = [
        "safetensors",
        "gguf",
        "ggml",
        "onnx",
        "pt",
        "pth",
        "bin",
        "ckpt",
        "pkl",
        "pickle",
        "joblib",
        "h5",
        "hdf5",
        "keras",
        "tflite",
        "mar",
    ];
    split(path).1.rsplit_once('.').is_some_and(|(_, extension)| EXTENSIONS.contains(&extension))
}

/// What the file at `path` is; none where its bytes are not what its name says.
pub fn read(source: &(impl Source + ?Sized), path: &str) -> Option<Model> {
    let head = source.bytes(0, source.size().min(16), 16).ok()?;
    let extension = split(path).1.rsplit_once('.')?.1;
    let is_zip = head.starts_with(b"PK\x03\x04");
    match extension {
        "safetensors" => {
            let length = u64::from_le_bytes(head.get(..8)?.try_into().ok()?);
            let fits = length >= 2 && length <= source.size().saturating_sub(8);
            (fits && head.get(8) == Some(&b'{')).then_some(Model::Data("safetensors"))
        }
        "gguf" => head.starts_with(b"GGUF").then_some(Model::Data("GGUF")),
        "ggml" => Some(Model::Data("GGML")),
        // A message of protocol buffers whose first field is the version of the format.
        "onnx" => (head.first() == Some(&8)).then_some(Model::Data("ONNX")),
        "tflite" => (head.get(4..8) == Some(b"TFL3")).then_some(Model::Data("TensorFlow Lite")),
        "h5" | "hdf5" => head.starts_with(b"\x89HDF\r\n\x1a\n").then_some(Model::Data("HDF5")),
        "keras" => is_zip.then_some(Model::Data("Keras")),
        "pt" | "pth" | "ckpt" | "bin" | "mar" if is_zip => {
            let members = Archive::open(source, DIRECTORY_MAX).and_then(|mut archive| archive.members(MEMBERS_MAX));
            match members {
                Ok(members) => members
                    .iter()
                    .any(|member| member.name.ends_with("data.pkl"))
                    .then_some(Model::Pickle("PyTorch archive with a pickle")),
                // Another program may find one in it.
                Err(_) if matches!(extension, "pt" | "pth" | "ckpt") => {
                    Some(Model::Pickle("PyTorch archive whose members cannot be told"))
                }
                Err(_) => None,
            }
        }
        "pt" | "pth" | "ckpt" | "bin" => is_pickle(&head).then_some(Model::Pickle("PyTorch pickle")),
        "pkl" | "pickle" => is_pickle(&head).then_some(Model::Pickle("pickle")),
        // Perhaps compressed.
        "joblib" => Some(Model::Pickle("joblib pickle")),
        _ => None,
    }
}

/// A pickle of protocol 2 or later says so first (pickletools, PROTO).
fn is_pickle(head: &[u8]) -> bool {
    matches!(head, [0x80, 2..=5, ..])
}

#[cfg(test)]
mod tests {
    use super::super::super::zip::stored;
    use super::*;

    #[test]
    fn a_model_is_known_by_its_bytes_as_well() {
        let weights = [&2_u64.to_le_bytes()[..], b"{}"].concat();
        assert_eq!(read(weights.as_slice(), "m/model.safetensors"), Some(Model::Data("safetensors")));
        assert_eq!(read(b"nothing at all".as_slice(), "m/model.safetensors"), None);
        assert_eq!(read(b"GGUF\x03\0\0\0".as_slice(), "m.gguf"), Some(Model::Data("GGUF")));
        let archive = stored(&[("m/data.pkl", b"\x80\x02}.")]);
        assert!(matches!(read(archive.as_slice(), "m.pt"), Some(Model::Pickle(_))));
        assert!(matches!(read(&archive[..archive.len() - 1], "m.pt"), Some(Model::Pickle(_))));
        assert!(matches!(read(b"\x80\x04\x95".as_slice(), "x.pkl"), Some(Model::Pickle(_))));
        assert_eq!(read(b"abc".as_slice(), "x.bin"), None);
        assert!(may_be("a/b.pt") && !may_be("a/b.txt"));
    }
}
