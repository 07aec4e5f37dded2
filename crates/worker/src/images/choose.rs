//! Which image an action runs in, by its exec property `container-image`.

use super::{Images, InUse};
use mortar_model::{Error, ImageReference, Kind, Platform, Property, Result, image};

/// The image that the action asks for; none if it asks for none, or this worker offers the value as it is: then its
/// operator has said that the host will do.
pub fn choose(images: &Images, wanted: &Platform, offered: &Platform) -> Result<Option<InUse>> {
    let mut values = wanted.properties.iter().filter(|property| property.name == image::PROPERTY);
    let Some(property) = values.next() else { return Ok(None) };
    if let Some(other) = values.find(|other| other.value != property.value) {
        let message = format!("the action asks for two images, `{}` and `{}`", property.value, other.value);
        return Err(Error::invalid(image::PROPERTY, message));
    }
    let reference = ImageReference::parse(&property.value);
    if let Ok(reference) = &reference
        && let Some(found) = images.find(reference)?
    {
        return Ok(Some(found));
    }
    let alone = Platform { properties: vec![property.clone()] };
    if image::canonical(&alone).unmet_by(&image::canonical(offered)).next().is_none() {
        return Ok(None);
    }
    Err(missing(images, property, &reference?)?)
}

fn missing(images: &Images, property: &Property, reference: &ImageReference) -> Result<Error> {
    let there: Vec<_> = images.announced()?.iter().map(|image| format!("`{image}`")).collect();
    let there = if there.is_empty() { "it has none".into() } else { format!("it has {}", there.join(", ")) };
    let message = format!("the worker has no image `{}`; {there}", property.value);
    let command =
        format!("`mortar image import SOURCE {}` on the worker's machine gives it one", reference.name);
    Ok(Error::new(Kind::FailedPrecondition { message }).hint(command))
}
