//! Action results on the wire.

use crate::{
    auxiliary, digest_to_wire, duration_to_wire,
    merkle::{properties_from_wire, properties_to_wire},
    optional_digest, reapi, required_digest,
    time::timestamp_from_wire,
    timestamp_to_wire,
};
use mortar_model::{
    ActionResult, DigestFunction, Error, ExecutionMetadata, OutputDirectory, OutputFile, OutputSymlink,
    Result, merkle::check_relative,
};

/// An action result, its paths and digests checked.
#[allow(deprecated)]
pub fn result_from_wire(function: DigestFunction, result: reapi::ActionResult) -> Result<ActionResult> {
    let files = result.output_files.into_iter().map(|file| file_from_wire(function, file));
    let directories =
        result.output_directories.into_iter().map(|directory| directory_from_wire(function, directory));
    Ok(ActionResult {
        files: files.collect::<Result<_>>()?,
        directories: directories.collect::<Result<_>>()?,
        symlinks: symlinks_from_wire(result.output_symlinks)?,
        file_symlinks: symlinks_from_wire(result.output_file_symlinks)?,
        directory_symlinks: symlinks_from_wire(result.output_directory_symlinks)?,
        exit_code: result.exit_code,
        stdout_raw: result.stdout_raw,
        stdout_digest: optional_digest("stdout_digest", function, result.stdout_digest)?,
        stderr_raw: result.stderr_raw,
        stderr_digest: optional_digest("stderr_digest", function, result.stderr_digest)?,
        metadata: result.execution_metadata.map(metadata_from_wire).unwrap_or_default(),
    })
}

/// An action result as messages hold it.
#[allow(deprecated)]
pub fn result_to_wire(result: &ActionResult) -> reapi::ActionResult {
    reapi::ActionResult {
        output_files: result.files.iter().map(file_to_wire).collect(),
        output_directories: result.directories.iter().map(directory_to_wire).collect(),
        output_symlinks: result.symlinks.iter().map(symlink_to_wire).collect(),
        output_file_symlinks: result.file_symlinks.iter().map(symlink_to_wire).collect(),
        output_directory_symlinks: result.directory_symlinks.iter().map(symlink_to_wire).collect(),
        exit_code: result.exit_code,
        stdout_raw: result.stdout_raw.clone(),
        stdout_digest: result.stdout_digest.map(digest_to_wire),
        stderr_raw: result.stderr_raw.clone(),
        stderr_digest: result.stderr_digest.map(digest_to_wire),
        execution_metadata: Some(metadata_to_wire(&result.metadata)),
    }
}

/// Who executed and when.
pub fn metadata_from_wire(metadata: reapi::ExecutedActionMetadata) -> ExecutionMetadata {
    let duration = metadata.virtual_execution_duration;
    let mut known = ExecutionMetadata {
        worker: metadata.worker,
        queued: timestamp_from_wire(metadata.queued_timestamp),
        worker_start: timestamp_from_wire(metadata.worker_start_timestamp),
        worker_completed: timestamp_from_wire(metadata.worker_completed_timestamp),
        input_fetch_start: timestamp_from_wire(metadata.input_fetch_start_timestamp),
        input_fetch_completed: timestamp_from_wire(metadata.input_fetch_completed_timestamp),
        execution_start: timestamp_from_wire(metadata.execution_start_timestamp),
        execution_completed: timestamp_from_wire(metadata.execution_completed_timestamp),
        virtual_execution_duration: duration.and_then(|duration| duration.try_into().ok()),
        output_upload_start: timestamp_from_wire(metadata.output_upload_start_timestamp),
        output_upload_completed: timestamp_from_wire(metadata.output_upload_completed_timestamp),
        usage: None,
        persistent_worker: None,
        waiting: None,
        setbacks: None,
    };
    auxiliary::from_wire(&metadata.auxiliary_metadata, &mut known);
    known
}

/// Who executed and when, as messages hold it.
pub fn metadata_to_wire(metadata: &ExecutionMetadata) -> reapi::ExecutedActionMetadata {
    reapi::ExecutedActionMetadata {
        worker: metadata.worker.clone(),
        queued_timestamp: metadata.queued.map(timestamp_to_wire),
        worker_start_timestamp: metadata.worker_start.map(timestamp_to_wire),
        worker_completed_timestamp: metadata.worker_completed.map(timestamp_to_wire),
        input_fetch_start_timestamp: metadata.input_fetch_start.map(timestamp_to_wire),
        input_fetch_completed_timestamp: metadata.input_fetch_completed.map(timestamp_to_wire),
        execution_start_timestamp: metadata.execution_start.map(timestamp_to_wire),
        execution_completed_timestamp: metadata.execution_completed.map(timestamp_to_wire),
        virtual_execution_duration: metadata.virtual_execution_duration.map(duration_to_wire),
        output_upload_start_timestamp: metadata.output_upload_start.map(timestamp_to_wire),
        output_upload_completed_timestamp: metadata.output_upload_completed.map(timestamp_to_wire),
        auxiliary_metadata: auxiliary::to_wire(metadata),
    }
}

fn file_from_wire(function: DigestFunction, file: reapi::OutputFile) -> Result<OutputFile> {
    check_path("output_files.path", &file.path)?;
    Ok(OutputFile {
        digest: required_digest("output_files.digest", function, file.digest)?,
        path: file.path,
        is_executable: file.is_executable,
        contents: file.contents,
        properties: file.node_properties.map(properties_from_wire),
    })
}

fn file_to_wire(file: &OutputFile) -> reapi::OutputFile {
    reapi::OutputFile {
        path: file.path.clone(),
        digest: Some(digest_to_wire(file.digest)),
        is_executable: file.is_executable,
        contents: file.contents.clone(),
        node_properties: file.properties.as_ref().map(properties_to_wire),
    }
}

fn directory_from_wire(
    function: DigestFunction,
    directory: reapi::OutputDirectory,
) -> Result<OutputDirectory> {
    check_relative("output_directories.path", &directory.path)?;
    let tree_digest = optional_digest("output_directories.tree_digest", function, directory.tree_digest)?;
    let root = optional_digest(
        "output_directories.root_directory_digest",
        function,
        directory.root_directory_digest,
    )?;
    if tree_digest.is_none() && root.is_none() {
        let message = format!(
            "the output directory `{}` has neither a tree_digest nor a root_directory_digest",
            directory.path
        );
        return Err(Error::invalid("output_directories.tree_digest", message));
    }
    Ok(OutputDirectory {
        path: directory.path,
        tree_digest,
        is_topologically_sorted: directory.is_topologically_sorted,
        root_directory_digest: root,
    })
}

fn directory_to_wire(directory: &OutputDirectory) -> reapi::OutputDirectory {
    reapi::OutputDirectory {
        path: directory.path.clone(),
        tree_digest: directory.tree_digest.map(digest_to_wire),
        is_topologically_sorted: directory.is_topologically_sorted,
        root_directory_digest: directory.root_directory_digest.map(digest_to_wire),
    }
}

fn symlinks_from_wire(links: Vec<reapi::OutputSymlink>) -> Result<Vec<OutputSymlink>> {
    let checked = links.into_iter().map(|link| {
        check_path("output_symlinks.path", &link.path)?;
        if link.target.is_empty() {
            return Err(Error::invalid(
                "output_symlinks.target",
                format!("the symlink `{}` has no target", link.path),
            ));
        }
        Ok(OutputSymlink {
            path: link.path,
            target: link.target,
            properties: link.node_properties.map(properties_from_wire),
        })
    });
    checked.collect()
}

fn symlink_to_wire(link: &OutputSymlink) -> reapi::OutputSymlink {
    reapi::OutputSymlink {
        path: link.path.clone(),
        target: link.target.clone(),
        node_properties: link.properties.as_ref().map(properties_to_wire),
    }
}

fn check_path(field: &'static str, path: &str) -> Result<()> {
    if path.is_empty() {
        return Err(Error::invalid(field, format!("the field `{field}` is empty; expected a relative path")));
    }
    check_relative(field, path)
}
