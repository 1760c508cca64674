"""Every metric of the registry as an `evaluate` module: `evaluate.load("…/evaluate_module.py", "field_accuracy")`.

`evaluate` copies this file and imports the copy; the scoring itself stays in the registry.
"""

import json
from typing import Any

import datasets
import evaluate

from grokora_pipeline.evaluation.metrics import bleu_signature, get_metric
from grokora_pipeline.evaluation.metrics.answers import Answer
from grokora_pipeline.models.messages import as_message

_LIKELIHOOD = ("perplexity", "bits_per_byte")


class GrokoraMetric(evaluate.Metric):  # type: ignore[misc]
    """Answers and expected answers are texts, or JSON of assistant messages if tool calls matter.

    `perplexity` and `bits_per_byte` take as predictions one JSON `[nll in nats, tokens]` a row.
    """

    def _info(self) -> evaluate.MetricInfo:
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=f"{self.config_name}: see grokora_pipeline.evaluation.metrics",
            citation="",
            inputs_description=str(self.__doc__),
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        tools: list[dict[str, Any]] | None = None,
        schema: dict[str, Any] | None = None,
        answer_type: Any = "text",
    ) -> dict[str, Any]:
        answers = []
        for prediction, reference in zip(predictions, references, strict=True):
            nll, tokens = json.loads(prediction) if self.config_name in _LIKELIHOOD else (None, 0)
            message = as_message(prediction)
            answers.append(
                Answer(message, as_message(reference), tools, schema, answer_type, nll=nll, reference_tokens=tokens)
            )
        result: dict[str, Any] = {self.config_name: get_metric(self.config_name).value(answers)}
        return {**result, "signature": bleu_signature()} if self.config_name == "sacrebleu" else result
