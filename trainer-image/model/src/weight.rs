//! Owns safetensors files: written in a fixed order with a digest of their content, read through a memory
//! map and refused when damaged; it must not know what the tensors mean.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use safetensors::{Dtype, SafeTensors};
use serde_json::json;
use sha2::{Digest, Sha256};
use tch::{Device, Kind, Tensor};

use crate::Error;

/// Key of the file's metadata under which we keep the digest of names, shapes and bytes. Hugging Face ignores it.
const DIGEST_KEY: &str = "bessemer.sha256";

fn dtype(kind: Kind) -> Option<(&'static str, Dtype)> {
    Some(match kind {
        Kind::Float => ("F32", Dtype::F32),
        Kind::BFloat16 => ("BF16", Dtype::BF16),
        Kind::Half => ("F16", Dtype::F16),
        Kind::Double => ("F64", Dtype::F64),
        Kind::Int64 => ("I64", Dtype::I64),
        Kind::Int => ("I32", Dtype::I32),
        Kind::Uint8 => ("U8", Dtype::U8),
        _ => return None,
    })
}

fn kind(dtype: Dtype) -> Option<Kind> {
    [
        Kind::Float,
        Kind::BFloat16,
        Kind::Half,
        Kind::Double,
        Kind::Int64,
        Kind::Int,
        Kind::Uint8,
    ]
    .into_iter()
    .find(|&kind| self::dtype(kind).is_some_and(|(_, known)| known == dtype))
}

fn damaged(path: &Path, problem: impl std::fmt::Display) -> Error {
    Error::Content {
        path: path.to_owned(),
        problem: problem.to_string(),
    }
}

/// Bytes of a tensor, little-endian, row-major.
fn bytes(tensor: &Tensor) -> Result<Vec<u8>, Error> {
    let tensor = tensor.detach().to_device(Device::Cpu).contiguous();
    let mut buffer = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
    tensor.f_copy_data_u8(&mut buffer, tensor.numel())?;
    Ok(buffer)
}

/// Adds one tensor to the digest; name, type and shape count as much as the bytes.
fn absorb(hash: &mut Sha256, name: &str, dtype: &str, shape: &[usize], bytes: &[u8]) {
    hash.update(format!(
        "{name}\u{0}{dtype}\u{0}{shape:?}\u{0}{}\u{0}",
        bytes.len()
    ));
    hash.update(bytes);
}

/// Writes `tensors` to `path`, in name order; the same tensors give the same bytes. The file appears only when
/// it is complete and on disk.
///
/// # Errors
/// [`Error::File`] when it cannot be written, [`Error::Content`] for a kind that the format lacks.
pub fn write(path: &Path, tensors: &BTreeMap<String, Tensor>) -> Result<(), Error> {
    let failed = Error::io(path);
    let mut header = serde_json::Map::new();
    let mut hash = Sha256::new();
    let mut offset = 0;
    for (name, tensor) in tensors {
        let Some((word, _)) = dtype(tensor.kind()) else {
            return Err(damaged(
                path,
                format!(
                    "{name} has kind {:?}, which safetensors lacks",
                    tensor.kind()
                ),
            ));
        };
        let shape: Vec<usize> = tensor
            .size()
            .iter()
            .map(|&size| usize::try_from(size).unwrap_or(0))
            .collect();
        let bytes = bytes(tensor)?;
        absorb(&mut hash, name, word, &shape, &bytes);
        let end = offset + bytes.len();
        header.insert(
            name.clone(),
            json!({ "dtype": word, "shape": shape, "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    header.insert(
        "__metadata__".to_owned(),
        json!({ "format": "pt", DIGEST_KEY: hex::encode(hash.finalize()) }),
    );
    let mut header = serde_json::Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');

    let partial = path.with_extension("partial");
    let mut file = BufWriter::new(File::create(&partial).map_err(&failed)?);
    file.write_all(&(header.len() as u64).to_le_bytes())
        .map_err(&failed)?;
    file.write_all(&header).map_err(&failed)?;
    for tensor in tensors.values() {
        file.write_all(&bytes(tensor)?).map_err(&failed)?;
    }
    let file = file
        .into_inner()
        .map_err(|error| failed(error.into_error()))?;
    file.sync_all().map_err(&failed)?;
    std::fs::rename(&partial, path).map_err(&failed)
}

/// Reads all tensors of `path` to `device`. A file that we wrote is checked against the digest it holds.
///
/// # Errors
/// [`Error::File`] when it cannot be opened; [`Error::Content`] when it is truncated, has a flipped byte or
/// holds an unknown type.
pub fn read(path: &Path, device: Device) -> Result<BTreeMap<String, Tensor>, Error> {
    let failed = Error::io(path);
    let file = File::open(path).map_err(&failed)?;
    // SAFETY: model files are written under another name and renamed, never changed in place.
    #[allow(unsafe_code)]
    // reason: a memory map is the only way to read weights without a second copy
    let map = unsafe { memmap2::Mmap::map(&file) }.map_err(&failed)?;
    let (_, metadata) = SafeTensors::read_metadata(&map).map_err(|error| damaged(path, error))?;
    let stored = metadata
        .metadata()
        .as_ref()
        .and_then(|entries| entries.get(DIGEST_KEY).cloned());
    let ours = metadata
        .metadata()
        .as_ref()
        .is_some_and(|entries| entries.keys().any(|key| key.starts_with("bessemer")));
    let parsed = SafeTensors::deserialize(&map).map_err(|error| damaged(path, error))?;
    let mut views = parsed.tensors();
    views.sort_by(|left, right| left.0.cmp(&right.0));
    let mut hash = Sha256::new();
    let mut tensors = BTreeMap::new();
    for (name, view) in views {
        let Some(kind) = kind(view.dtype()) else {
            return Err(damaged(
                path,
                format!("{name} has type {:?}, which is not supported", view.dtype()),
            ));
        };
        if stored.is_some() {
            let word = dtype(kind).map_or("", |(word, _)| word);
            absorb(&mut hash, &name, word, view.shape(), view.data());
        }
        let shape: Vec<i64> = view
            .shape()
            .iter()
            .map(|&size| i64::try_from(size).unwrap_or(i64::MAX))
            .collect();
        let tensor = Tensor::f_from_data_size(view.data(), &shape, kind)?;
        tensors.insert(name, tensor.to_device(device));
    }
    match stored {
        Some(stored) if stored != hex::encode(hash.finalize()) => Err(damaged(
            path,
            "its content does not match the SHA-256 it holds",
        )),
        None if ours => Err(damaged(path, "its digest is missing")),
        _ => Ok(tensors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> BTreeMap<String, Tensor> {
        BTreeMap::from([
            (
                "b".to_owned(),
                Tensor::from_slice(&[1.5f32, -0.0, f32::MIN_POSITIVE]).view([3, 1]),
            ),
            ("a".to_owned(), Tensor::from_slice(&[7i64])),
            (
                "c".to_owned(),
                Tensor::from_slice(&[0.1f32, 3.0]).to_kind(Kind::BFloat16),
            ),
        ])
    }

    #[test]
    fn a_file_comes_back_bit_for_bit_and_is_the_same_when_written_again() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (
            directory.path().join("1.safetensors"),
            directory.path().join("2.safetensors"),
        );
        write(&first, &sample()).unwrap();
        let back = read(&first, Device::Cpu).unwrap();
        for (name, tensor) in sample() {
            assert_eq!(tensor.kind(), back[&name].kind());
            assert_eq!(tensor.size(), back[&name].size());
            assert_eq!(bytes(&tensor).unwrap(), bytes(&back[&name]).unwrap());
        }
        write(&second, &back).unwrap();
        assert_eq!(
            std::fs::read(&first).unwrap(),
            std::fs::read(&second).unwrap()
        );
        assert!(!directory.path().join("1.partial").exists());
    }

    #[test]
    fn every_flipped_byte_and_every_truncation_is_refused_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("model.safetensors");
        write(&path, &sample()).unwrap();
        let good = std::fs::read(&path).unwrap();
        let refused = |content: &[u8]| {
            std::fs::write(&path, content).unwrap();
            match read(&path, Device::Cpu) {
                Err(error) => assert!(error.to_string().contains("model.safetensors"), "{error}"),
                // A flip inside the words "format" or "pt" or in padding changes nothing that is read.
                Ok(tensors) => {
                    assert_eq!(tensors.len(), 3);
                    for (name, tensor) in sample() {
                        assert_eq!(bytes(&tensor).unwrap(), bytes(&tensors[&name]).unwrap());
                    }
                }
            }
        };
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 0x10;
            refused(&bad);
        }
        let mut flipped_weight = good.clone();
        *flipped_weight.last_mut().unwrap() ^= 1;
        std::fs::write(&path, &flipped_weight).unwrap();
        assert!(matches!(
            read(&path, Device::Cpu),
            Err(Error::Content { .. })
        ));
        for length in [0, 4, 8, 20, good.len() - 1] {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(read(&path, Device::Cpu).is_err(), "length {length}");
        }
    }
}
