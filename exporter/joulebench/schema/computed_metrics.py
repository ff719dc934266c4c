"""``computed_metrics`` of a result file: totals of the task from its events, with the names of the MCPWorld client."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from joulebench.schema.fields import doc
from joulebench.schema.record import Count, Number, Record, Text, Truth


class TokenUsage(Record):
    """Tokens of all calls. From LLM_QUERY_END, else from the pushed counters."""

    total_prompt_tokens: Annotated[Count, doc("tokens", "Sum of the calls' prompt tokens, cached ones included.")] = None
    total_completion_tokens: Annotated[Count, doc("tokens", "Sum of the calls' completion tokens.")] = None
    total_tokens: Annotated[Count, doc("tokens", "Prompt and completion tokens together; null unless both are known.")] = None


class CompletionStatus(Record):
    """From TASK_END, else from the pushed status."""

    status: Annotated[Text, doc("", "`success`, `failure`, `timeout`, `error`, `unknown`, or `unfinished` without an end.")] = (
        None
    )
    reason: Annotated[Text, doc("", "Why, in words.")] = None
    success: Annotated[Truth, doc("", "Whether the task was solved; null where that was not judged.")] = None


class AgentReport(Record):
    """Kept for readers of the client's files; always null."""

    completed: Annotated[Truth, doc("", "Always null.")] = None
    reasoning: Annotated[Text, doc("", "Always null.")] = None


class ToolCallSummary(Record):
    """The last call of a tool."""

    start_time: Annotated[Number, doc("unix s", "When it began.")] = None
    args: Annotated[Any, doc("", "Its arguments.")] = None
    end_time: Annotated[Number, doc("unix s", "When it ended.")] = None
    success: Annotated[Truth, doc("", "Whether its outcome is `ok`.")] = None
    result: Annotated[Any, doc("", "What it answered.")] = None
    error: Annotated[Any, doc("", "What failed.")] = None


class ToolStats(Record):
    """Calls of one tool that ended."""

    total_count: Annotated[int, doc("calls", "All.")] = 0
    success_count: Annotated[int, doc("calls", "With outcome `ok`.")] = 0
    failure_count: Annotated[int, doc("calls", "With any other outcome.")] = 0
    last_call: Annotated[ToolCallSummary, doc("", "The last call.")] = msgspec.field(default_factory=ToolCallSummary)


class ToolUsage(Record):
    """From TOOL_CALL_END, totals else from the pushed counters."""

    total_tool_calls: Annotated[Count, doc("calls", "Tool calls that ended.")] = None
    outcomes: Annotated[dict[str, int] | None, doc("calls", "By outcome.")] = None
    tools: Annotated[dict[str, ToolStats], doc("", "By the name that the model gave.")] = msgspec.field(default_factory=dict)


class ErrorSource(Record):
    """Errors of one source."""

    count: Annotated[int, doc("errors", "How many.")] = 0
    errors: Annotated[list[dict[str, Any]], doc("", "`timestamp` and `details` of each.")] = msgspec.field(default_factory=list)


class ErrorSummary(Record):
    """Failed LLM and tool calls, and errors of the benchmark itself. From the journal."""

    total_error_count: Annotated[Count, doc("errors", "Of all sources.")] = None
    errors_by_source: Annotated[dict[str, ErrorSource], doc("", "By `LLM`, `Tool` and `Agent`.")] = msgspec.field(
        default_factory=dict
    )


class TtftMetrics(Record):
    """TTFT: from the request to the first streamed token, by the client's clock. A reply that was not streamed has none."""

    average_ttft_ms: Annotated[Number, doc("ms", "Mean over the calls that have one.")] = None
    min_ttft_ms: Annotated[Number, doc("ms", "Lowest; needs the journal.")] = None
    max_ttft_ms: Annotated[Number, doc("ms", "Highest; needs the journal.")] = None
    total_llm_calls: Annotated[Count, doc("calls", "Calls that have one.")] = None
    all_ttft_ms: Annotated[list[float], doc("ms", "Of each call that has one, in order.")] = msgspec.field(default_factory=list)


class GenerationTimeMetrics(Record):
    """Latency of successful calls: from the request to the end of the reply, queue, load and prefill included."""

    average_generation_time_ms: Annotated[Number, doc("ms", "Mean over successful calls.")] = None
    min_generation_time_ms: Annotated[Number, doc("ms", "Lowest; needs the journal.")] = None
    max_generation_time_ms: Annotated[Number, doc("ms", "Highest; needs the journal.")] = None
    total_llm_calls: Annotated[Count, doc("calls", "Calls that succeeded.")] = None
    all_generation_times_ms: Annotated[list[float], doc("ms", "Of each successful call, in order.")] = msgspec.field(
        default_factory=list
    )


class OverheadMetrics(Record):
    """Where the time of the task went; times of calls that ran in parallel are added up."""

    processing_overhead_ms: Annotated[Number, doc("ms", "Task time less LLM and tool time, not below 0.")] = None
    total_task_time_ms: Annotated[Number, doc("ms", "Duration of the task.")] = None
    total_llm_time_ms: Annotated[Number, doc("ms", "Sum of the successful calls' latencies.")] = None
    total_tool_time_ms: Annotated[Number, doc("ms", "Sum of the tool calls' durations.")] = None
    overhead_percentage: Annotated[Number, doc("%", "Overhead over task time.")] = None


class TokenEfficiency(Record):
    """Ratios of token counts."""

    token_efficiency_ratio: Annotated[Number, doc("ratio", "Prompt tokens over completion tokens.")] = None
    total_prompt_tokens: Annotated[Count, doc("tokens", "As in `llm_token_usage`.")] = None
    total_completion_tokens: Annotated[Count, doc("tokens", "As in `llm_token_usage`.")] = None
    total_tokens: Annotated[Count, doc("tokens", "As in `llm_token_usage`.")] = None
    average_tokens_per_call: Annotated[
        Number,
        doc("ratio", "All tokens over completion tokens, which is what the client gives this name; see `tokens_per_call`."),
    ] = None
    tokens_per_call: Annotated[Number, doc("tokens", "All tokens over calls that began.")] = None


class Throughput(Record):
    """Rates of completion tokens, over the successful calls that report tokens."""

    tokens_per_second: Annotated[Number, doc("tokens/s", "As `overall_tokens_per_second`.")] = None
    avg_tokens_per_second: Annotated[Number, doc("tokens/s", "Mean over calls of completion tokens over latency.")] = None
    min_tokens_per_second: Annotated[Number, doc("tokens/s", "Lowest of the calls.")] = None
    max_tokens_per_second: Annotated[Number, doc("tokens/s", "Highest of the calls.")] = None
    overall_tokens_per_second: Annotated[
        Number,
        doc(
            "tokens/s",
            "Completion tokens of these calls over the sum of their latencies, be they at the same time: queue, load and prefill"
            " included.",
        ),
    ] = None
    wall_tokens_per_second: Annotated[
        Number, doc("tokens/s", "Completion tokens of these calls over the time in which at least one of them ran.")
    ] = None
    decode_tokens_per_second: Annotated[
        Number,
        doc(
            "tokens/s",
            "Decode tokens over decode seconds: the server's own count and time where it reports them, else the tokens after the"
            " first over the time after the first (n-1 intervals).",
        ),
    ] = None
    time_per_output_token_ms: Annotated[
        Number, doc("ms", "TPOT: decode seconds over decode tokens, of the calls that report both.")
    ] = None
    total_completion_tokens: Annotated[Count, doc("tokens", "Completion tokens of these calls.")] = None
    total_generation_time_sec: Annotated[Number, doc("s", "Sum of these calls' latencies.")] = None
    call_count: Annotated[Count, doc("calls", "These calls.")] = None


class ToolConfidence(Record):
    """Confidence of the task's tool calls: by default the lower of the name's branch and the least sure argument token."""

    avg_tool_confidence: Annotated[Number, doc("ratio", "Mean over the tool calls that have one.")] = None
    min_tool_confidence: Annotated[Number, doc("ratio", "Lowest.")] = None
    max_tool_confidence: Annotated[Number, doc("ratio", "Highest.")] = None
    tool_calls_with_confidence: Annotated[Count, doc("calls", "Tool calls that have one.")] = None
    tool_confidence_definition: Annotated[
        Text,
        doc(
            "",
            "Tokens that these confidences are of: `tool_call`: those of the call itself; `reported`: the client's own number, as the"
            " MCPWorld client's mean over the whole reply; `mixed`: some of each; null without a journal.",
        ),
    ] = None
    avg_reply_confidence: Annotated[
        Number,
        doc("ratio", "Mean over the tool calls of the mean probability of all tokens of the reply, or of the reported number."),
    ] = None


class Hallucinations(Record):
    """Calls of tools that were never declared."""

    hallucination_detected: Annotated[Truth, doc("", "Whether there was any.")] = None
    total_hallucinated_calls: Annotated[Count, doc("calls", "How many.")] = None
    hallucinated_tool_names: Annotated[list[str], doc("", "Their names, sorted.")] = msgspec.field(default_factory=list)


class LoopDetections(Record):
    """Tool calls that the agent repeated in a pattern. Null for a benchmark that does not look for loops."""

    loop_detected: Annotated[Truth, doc("", "Whether there was any.")] = None
    total_loop_detections: Annotated[Count, doc("loops", "How many.")] = None
    loop_types: Annotated[dict[str, int], doc("loops", "By `consecutive_identical`, `alternating_pattern` and `unknown`.")] = (
        msgspec.field(default_factory=dict)
    )
    loop_details: Annotated[list[dict[str, Any]], doc("", "Each with its type, description and time.")] = msgspec.field(
        default_factory=list
    )


class KeySteps(Record):
    """Steps towards the goal. From KEY_STEP_COMPLETED."""

    total_steps: Annotated[Count, doc("steps", "All steps of the task; null where the benchmark does not say.")] = None
    completion_rate_by_count: Annotated[Number, doc("ratio", "Different steps over all.")] = None
    completion_rate_by_progress: Annotated[Number, doc("ratio", "Highest number over all.")] = None
    final_step_reached: Annotated[Truth, doc("", "Whether the highest number is that of the last step.")] = None
    completed_steps_count: Annotated[Count, doc("steps", "Different steps.")] = None
    highest_index_reached: Annotated[Count, doc("", "Highest number of a step.")] = None
    completed_indices_list: Annotated[list[int], doc("", "Numbers of the steps, sorted.")] = msgspec.field(default_factory=list)
    completion_timeline: Annotated[list[dict[str, Any]], doc("", "Each step with its time.")] = msgspec.field(
        default_factory=list
    )


class ComputedMetrics(Record):
    """Totals of the task from its events. Lists, minima and maxima need the journal."""

    total_duration_seconds: Annotated[Number, doc("s", "By the monotonic clock where it was kept, else end less start.")] = None
    llm_call_count: Annotated[Count, doc("calls", "LLM calls that began.")] = None
    llm_token_usage: Annotated[TokenUsage, doc("", "Tokens.")] = msgspec.field(default_factory=TokenUsage)
    task_completion_status: Annotated[CompletionStatus, doc("", "How it ended.")] = msgspec.field(
        default_factory=CompletionStatus
    )
    agent_reported_completion: Annotated[AgentReport, doc("", "Kept for readers of the client's files.")] = msgspec.field(
        default_factory=AgentReport
    )
    tool_usage_stats: Annotated[ToolUsage, doc("", "Tool calls.")] = msgspec.field(default_factory=ToolUsage)
    error_summary: Annotated[ErrorSummary, doc("", "Errors.")] = msgspec.field(default_factory=ErrorSummary)
    ttft_metrics: Annotated[TtftMetrics, doc("", "Time to first token.")] = msgspec.field(default_factory=TtftMetrics)
    generation_time_metrics: Annotated[GenerationTimeMetrics, doc("", "Latency of calls.")] = msgspec.field(
        default_factory=GenerationTimeMetrics
    )
    processing_overhead_metrics: Annotated[OverheadMetrics, doc("", "Where the time went.")] = msgspec.field(
        default_factory=OverheadMetrics
    )
    token_efficiency_metrics: Annotated[TokenEfficiency, doc("", "Ratios of tokens.")] = msgspec.field(
        default_factory=TokenEfficiency
    )
    throughput_metrics: Annotated[Throughput, doc("", "Rates of tokens.")] = msgspec.field(default_factory=Throughput)
    tool_confidence_metrics: Annotated[ToolConfidence, doc("", "Confidence of tool calls.")] = msgspec.field(
        default_factory=ToolConfidence
    )
    tool_hallucination_metrics: Annotated[Hallucinations, doc("", "Undeclared tools.")] = msgspec.field(
        default_factory=Hallucinations
    )
    loop_detection_metrics: Annotated[LoopDetections, doc("", "Loops.")] = msgspec.field(default_factory=LoopDetections)
    key_step_tracker: Annotated[KeySteps, doc("", "Key steps.")] = msgspec.field(default_factory=KeySteps)
