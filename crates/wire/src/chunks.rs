//! Chunking on the wire: functions, their parameters, and which of them a server offers.

use crate::reapi::{self, chunking_function::Value};
use mortar_model::{ChunkingFunction, ChunkingParameters, Error, FastCdc2020, RepMaxCdc, Result};

/// The function that a request or an answer names; none if it leaves that open.
pub fn chunking_function(value: i32) -> Result<Option<ChunkingFunction>> {
    match Value::try_from(value) {
        Ok(Value::Unknown) => Ok(None),
        Ok(Value::FastCdc2020) => Ok(Some(ChunkingFunction::FastCdc2020)),
        Ok(Value::RepMaxCdc) => Ok(Some(ChunkingFunction::RepMaxCdc)),
        Err(_) => {
            let message = format!("the chunking function {value} is not known");
            Err(Error::invalid("chunking_function", message)
                .hint("this server speaks FAST_CDC_2020 and REP_MAX_CDC, as its capabilities tell, and takes UNKNOWN"))
        }
    }
}

/// The function as messages name it.
pub fn chunking_function_to_wire(function: Option<ChunkingFunction>) -> i32 {
    let value = match function {
        None => Value::Unknown,
        Some(ChunkingFunction::FastCdc2020) => Value::FastCdc2020,
        Some(ChunkingFunction::RepMaxCdc) => Value::RepMaxCdc,
    };
    value.into()
}

/// Tells in the capabilities of a cache that it splits and splices, and how.
pub fn chunking_to_wire(parameters: ChunkingParameters, cache: &mut reapi::CacheCapabilities) {
    let ChunkingParameters { fast_cdc_2020, rep_max_cdc } = parameters;
    cache.split_blob_support = true;
    cache.splice_blob_support = true;
    cache.fast_cdc_2020_params = Some(reapi::FastCdc2020Params {
        avg_chunk_size_bytes: fast_cdc_2020.average,
        seed: fast_cdc_2020.seed,
    });
    cache.rep_max_cdc_params = Some(reapi::RepMaxCdcParams {
        min_chunk_size_bytes: rep_max_cdc.minimum,
        horizon_size_bytes: rep_max_cdc.horizon,
    });
}

/// How a cache splits and splices; none if it does not do both. Of a function that it does not offer, the recommended
/// parameters stand in.
pub fn chunking_from_wire(cache: &reapi::CacheCapabilities) -> Option<ChunkingParameters> {
    let fast = cache
        .fast_cdc_2020_params
        .map(|told| FastCdc2020 { average: told.avg_chunk_size_bytes, seed: told.seed });
    let rep_max = cache
        .rep_max_cdc_params
        .map(|told| RepMaxCdc { minimum: told.min_chunk_size_bytes, horizon: told.horizon_size_bytes });
    (cache.split_blob_support && cache.splice_blob_support).then(|| ChunkingParameters {
        fast_cdc_2020: fast.unwrap_or_default(),
        rep_max_cdc: rep_max.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_come_back() {
        for function in [None, Some(ChunkingFunction::FastCdc2020), Some(ChunkingFunction::RepMaxCdc)] {
            assert_eq!(chunking_function(chunking_function_to_wire(function)).unwrap(), function);
        }
        assert!(chunking_function(3).unwrap_err().to_string().contains("chunking function 3"));
    }

    #[test]
    fn parameters_come_back() {
        let parameters = ChunkingParameters {
            fast_cdc_2020: FastCdc2020 { average: 1 << 20, seed: 5 },
            rep_max_cdc: RepMaxCdc { minimum: 1000, horizon: 0 },
        };
        let mut cache = reapi::CacheCapabilities::default();
        assert_eq!(chunking_from_wire(&cache), None);
        chunking_to_wire(parameters, &mut cache);
        assert_eq!(chunking_from_wire(&cache), Some(parameters));
    }
}
