//! The boxes of a user.

use super::{BoxImage, ImageError, Kernel, Settings};
use crate::model::{Cancel, KernelChoice, Reporter};
use crate::state::Layout;

/// Finds boxes and kernels, and builds those that are missing.
#[derive(Debug, Clone)]
pub struct Store {
    layout: Layout,
    settings: Settings,
}

impl Store {
    /// The store at `layout`; nothing is created yet.
    pub fn new(layout: Layout, settings: Settings) -> Self {
        Store { layout, settings }
    }

    /// The box `name`, built now when it is not there. Waits while another process builds it.
    pub fn ensure_box(
        &self,
        name: &str,
        report: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<BoxImage, ImageError> {
        let _ = (&self.layout, &self.settings, report, cancel);
        Err(ImageError::UnknownBox { name: name.to_owned(), known: Vec::new() })
    }

    /// The box `name` as the present recipe makes it; `None` when it was not built yet.
    pub fn find_box(&self, name: &str) -> Result<Option<BoxImage>, ImageError> {
        Err(ImageError::UnknownBox { name: name.to_owned(), known: Vec::new() })
    }

    /// The kernel for machines of `image`; the fast one is built now when it is not there.
    pub fn ensure_kernel(
        &self,
        image: &BoxImage,
        choice: KernelChoice,
        report: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<Kernel, ImageError> {
        let _ = (choice, report, cancel);
        Err(ImageError::UnknownBox { name: image.name.clone(), known: Vec::new() })
    }

    /// All boxes of the store by name, those of former recipes among them.
    pub fn list(&self) -> Result<Vec<BoxImage>, ImageError> {
        Ok(Vec::new())
    }

    /// Removes all that the store has of the box `name`, broken or not. Whether a machine
    /// still needs it is for the caller to know.
    pub fn remove(&self, name: &str) -> Result<(), ImageError> {
        Err(ImageError::UnknownBox { name: name.to_owned(), known: Vec::new() })
    }
}
