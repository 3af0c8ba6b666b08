"""Many pictures, one after another: which are meant, where results go, what is finished, and doing the rest."""

from nlsr.upscale.batch.manifest import Manifest, Part, conditions_of, results_of
from nlsr.upscale.batch.running import Done, may_begin, pictures_alike, run
from nlsr.upscale.batch.settings import Saving, colour, deciding, prepared
from nlsr.upscale.batch.sources import Found, Source, find_pictures
from nlsr.upscale.batch.staging import Staging
from nlsr.upscale.batch.stored import StoredManifest, fetch_record
from nlsr.upscale.batch.targets import Naming, Task, same_ending, tasks, without_results

__all__ = [
    "Done",
    "Found",
    "Manifest",
    "Naming",
    "Part",
    "Saving",
    "Source",
    "Staging",
    "StoredManifest",
    "Task",
    "colour",
    "conditions_of",
    "deciding",
    "fetch_record",
    "find_pictures",
    "may_begin",
    "pictures_alike",
    "prepared",
    "results_of",
    "run",
    "same_ending",
    "tasks",
    "without_results",
]
