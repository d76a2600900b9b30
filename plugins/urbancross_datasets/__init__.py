"""First-party datasets."""

from urbancross_bench.interfaces import Registration, hookimpl, register
from urbancross_datasets.synthetic.countries import COUNTRIES

_KNOWN = {
    "rsicd": "RSICD: 10,921 images of 31 classes, five captions each.",
    "rsitmd": "RSITMD: 4,743 images with finer captions and keywords.",
    "ucm": "UCM-Captions: 2,100 images of 21 classes.",
    "sydney": "Sydney-Captions: 613 images.",
}


@hookimpl
def register_datasets() -> list[Registration]:
    """The embedded synthetic countries, the datasets of the field, and readers of the files it uses."""
    return [
        register(
            "synthetic",
            "urbancross_datasets.synthetic.dataset:Synthetic",
            options="urbancross_datasets.synthetic.options:SyntheticOptions",
            members=COUNTRIES,
            summary="Drawn satellite tiles of three invented countries; needs no download.",
        ),
        register(
            "urbancross",
            "urbancross_datasets.urbancross:UrbanCross",
            options="urbancross_datasets.urbancross:UrbanCrossOptions",
            members=("finland", "germany", "spain"),
            aliases={"integration": ("finland", "germany", "spain")},
            summary="UrbanCross's three countries, with segments; `integration` is all of them.",
        ),
        *(
            register(
                name,
                f"urbancross_datasets.karpathy:{name.capitalize()}",
                options="urbancross_datasets.karpathy:KnownOptions",
                summary=summary,
            )
            for name, summary in _KNOWN.items()
        ),
        register(
            "karpathy",
            "urbancross_datasets.karpathy:Karpathy",
            options="urbancross_datasets.karpathy:KarpathyOptions",
            summary="Any Karpathy-style caption json with its images.",
        ),
        register(
            "precomp",
            "urbancross_datasets.precomp:Precomp",
            options="urbancross_datasets.precomp:PrecompOptions",
            summary="The *_precomp text files of the AMFMN family.",
        ),
        register(
            "pir",
            "urbancross_datasets.pir:Pir",
            options="urbancross_datasets.pir:PirOptions",
            summary="The json files of PIR and HarMA.",
        ),
        register(
            "csv",
            "urbancross_datasets.tables:Csv",
            options="urbancross_datasets.tables:CsvOptions",
            summary="Any csv, its columns named by options (SkyScript, iEBAKER, NWPU-Captions, …).",
        ),
        register(
            "json",
            "urbancross_datasets.records:Json",
            options="urbancross_datasets.records:JsonOptions",
            summary="A json of records or of captions by image name, or jsonl; keys named by options.",
        ),
        register(
            "huggingface",
            "urbancross_datasets.huggingface:HuggingFace",
            options="urbancross_datasets.huggingface:HuggingFaceOptions",
            summary="A copy that Hugging Face's `datasets` reads, from disk or its cache.",
        ),
        register(
            "imagefolder",
            "urbancross_datasets.huggingface:ImageFolder",
            options="urbancross_datasets.huggingface:HuggingFaceOptions",
            summary="A folder of images with metadata.csv or metadata.jsonl, as `datasets` reads it.",
        ),
        register(
            "prompted",
            "urbancross_datasets.prompted:Prompted",
            options="urbancross_datasets.prompted:PromptedOptions",
            summary="Stored features of images by class, with prompts for captions; no pixels.",
        ),
    ]
