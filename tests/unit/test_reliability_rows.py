"""Which test holds which row of the failure and security tables (the rows' numbers are those of RELIABILITY.md; its words
stand there). Every row has a test that exists, or a reason why it needs none; a test that is renamed is missed here.

`room/file::name` is a test function or class, without its `test_`; `scripts/chaos NAME` a scenario of the chaos suite;
`scripts/NAME WORD` a word in that script; `= ...` a reason.
"""

from __future__ import annotations

import ast
import functools
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

ROWS = """
1    contract/failover::a_refused_connection_costs_nothing
2    scripts/chaos black-hole
3    contract/reliability::a_name_that_nobody_knows_costs_no_client_anything
4    contract/connections::a_private_authority_must_be_named contract/connections::a_certificate_of_another_name_is_refused
5    contract/failover::the_second_provider_answers
6    contract/failover::a_reused_connection_that_died_is_no_failure contract/connections::a_connection_that_closes_under_the_request_is_replaced_once
7    contract/failover::the_second_provider_answers contract/drill::hang_runs_into_the_real_time_limit
8    contract/failover::the_second_provider_answers contract/errors::silence_everywhere
9    contract/failover::the_second_provider_answers
10   contract/failover::the_second_provider_answers unit/failures::status_alone
11   contract/failover::the_second_provider_answers unit/cooldown::overload_doubles_from_5_to_60_seconds_with_jitter
12   contract/failover::retry_after_keeps_the_target_out_and_others_never_wait unit/router::cool_downs_concern_the_model_and_open_no_breaker
13   unit/cooldown::retry_after unit/cooldown::a_date_counts_from_the_answers_own_date unit/cooldown::milliseconds_come_first
14   unit/cooldown::exhausted_windows unit/cooldown::retry_after_that_is_garbage_falls_back_to_the_windows
15   unit/failures::codes_and_phrases unit/failures::a_spent_subscription_window_is_the_keys contract/errors::spent_credit_everywhere
16   contract/failover::the_second_provider_answers contract/errors::spent_credit_everywhere
17   contract/key_pool::each_refusal_concerns_its_key_alone unit/routing_requirements::r39_the_next_key_serves_and_the_bad_one_is_shown
18   contract/key_pool::all_keys_refused_is_told_with_every_place contract/errors::TestAllDown::rejected_keys_are_403_and_name_the_provider unit/failures::permanent_ones_ask_not_to_retry
19   contract/errors::the_callers_own_mistake_comes_back_unchanged
20   contract/errors::an_overflow_has_the_words_that_start_compaction unit/routing_requirements::r42_an_overflow_goes_to_larger_windows_or_to_the_client_in_the_words_it_knows
21   unit/failures::status_alone unit/failover::what_is_nobody_elses_business_stops_at_once
22   unit/failover::what_is_nobody_elses_business_stops_at_once unit/failures::codes_and_phrases
23   contract/errors::unknown_model_everywhere unit/failover::a_model_that_is_gone_is_gone_for_all_keys
24   unit/failures::status_alone
25   contract/failover::the_second_provider_answers
26   contract/failover::the_second_provider_answers unit/dialect_errors::an_error_inside_a_200_has_the_status_it_would_have_had
27   contract/failover::the_second_provider_answers
28   contract/failover::redirects_are_never_followed contract/connections::redirects_are_not_followed
29   contract/reliability::what_is_too_large_is_given_up_and_another_is_asked unit/stream::an_endless_answer_ends_in_one_error
30   contract/streams::TestFailing::a_cut_json_answer_is_no_answer contract/failover::the_second_provider_answers
31   contract/routing::r30_an_error_before_the_first_content_of_a_200_fails_over
32   unit/router::when_all_are_out_the_least_bad_is_tried contract/errors::TestAllDown::overloaded_is_503_with_a_time
33   unit/budget::a_full_outage_is_not_multiplied unit/failover::an_empty_budget_ends_it_with_the_first_error
34   unit/failover::the_deadline_ends_everything contract/errors::silence_everywhere
35   unit/breaker::the_time_is_bounded unit/router::the_last_target_is_never_ejected_only_marked scripts/chaos flapping
36   unit/breaker::half_open_gives_one_permit_and_closes_after_two_successes unit/router::slow_start_after_recovery
37   unit/verdict::capabilities_go_before_rules unit/router::candidates_that_lack_what_the_request_needs_are_left_out contract/catalogue::a_provider_without_tools_is_passed_over_where_tools_are_wanted
38   contract/streams::TestBroken::inside_a_text_block contract/streams::the_retry_after_a_break_goes_elsewhere e2e/claude_code::a_stream_broken_in_the_middle_is_survived
39   contract/streams::TestBroken::after_a_whole_block
40   contract/streams::TestBroken::inside_tool_arguments scripts/chaos cuts
41   scripts/chaos cuts property/dialects_cuts::an_early_end_is_not_the_end
42   contract/streams::TestBroken::after_a_whole_block scripts/chaos cuts
43   contract/streams::TestFailing::silence_in_the_middle_ends_in_an_error contract/streams::pings_in_a_long_silence_are_not_content
44   contract/streams::TestFailing::an_error_event_in_the_middle_comes_once
45   contract/streams::TestBroken::inside_a_text_block property/dialects_cuts::an_early_end_is_not_the_end
46   contract/streams::TestFailing::nonsense_in_the_middle fuzz/short::nothing_unexpected_comes_out
47   contract/anthropic_lookalikes::disorder_after_the_commit_never_reaches_the_client property/stream_grammar::any_interleaving_keeps_the_grammar_and_loses_nothing
48   contract/streams::TestWhole::any_fragmentation_gives_the_same property/dialects_cuts::byte_by_byte
49   unit/sse::frames unit/sse::a_crlf_cut_in_two_is_one_line_end contract/streams::TestWhole::crlf_and_comments
50   unit/sse::an_endless_event_is_refused unit/eventstream::impossible_sizes_are_refused_before_the_body_comes
51   property/usage_corpus::usage_is_what_the_official_sdks_read fuzz/findings::token_counts_are_numbers
52   unit/relay::nothing_comes_after_the_last_event contract/reliability::what_comes_after_the_last_event_ends_the_providers_connection
53   contract/corpus_dialects::recorded_answers_read_as_the_official_sdk_reads_them unit/history
54   contract/client_gone::TestLeaving::before_the_head contract/client_gone::TestLeaving::before_the_first_content contract/client_gone::leaving_during_a_wait_ends_the_wait
55   contract/client_gone::TestLeaving::in_the_middle_of_a_busy_stream scripts/chaos leaving
56   contract/reliability::a_client_that_stops_reading_stops_its_provider scripts/chaos slow-clients
57   contract/client_gone::a_client_that_half_closes_still_gets_its_answer
58   contract/reliability::two_equal_requests_are_two_requests
59   contract/reliability::one_connection_too_many_is_told_and_the_others_go_on
60   contract/reliability::a_burst_of_connects_waits_for_nothing
61   scripts/chaos slow-clients
62   contract/reliability::hoarded_connections_make_room_oldest_first
63   contract/reliability::more_than_may_be_in_flight_is_told_to_come_back unit/slots::the_queue_is_bounded
64   chaos/state::a_stop_leaves_no_stream_without_an_end contract/start::sigterm_ends_it_with_0_and_leaves_no_socket
65   unit/process_signals::the_second_one_means_now e2e/handover::a_second_sigterm_ends_at_once
66   scripts/chaos kills contract/start::kill_9_is_survived_with_the_switch
67   e2e/handover::a_stream_a_kept_connection_and_what_is_known_live_on scripts/chaos upgrades
68   unit/process_successor::it_does_not e2e/handover::another_address_and_an_invalid_configuration scripts/chaos broken
69   scripts/chaos reloads unit/router::health_outlives_a_reload_for_what_stays_the_same
70   contract/reload::a_bad_file_changes_nothing_and_is_told_until_it_is_good contract/reload::what_can_be_no_configuration
71   unit/router::a_removed_provider_is_forgotten contract/connections::a_pool_that_a_reload_closed_still_serves
72   contract/reload::the_file_is_watched_however_it_is_saved unit/process_watch::a_swapped_link_is_a_change
73   unit/control_state::write_atomically_leaves_no_temporary_file_behind scripts/chaos kills
74   unit/store::a_full_disk_is_waited_out contract/costs::a_disk_that_is_really_full scripts/chaos full-disk
75   scripts/chaos read-only unit/store::a_directory_that_cannot_be_made_costs_only_the_figures
76   unit/store::a_lock_is_waited_out unit/store::the_queue_is_bounded_and_what_it_drops_is_counted
77   chaos/state::any_damage_to_the_usage_database_costs_at_most_its_rows unit/store::a_corrupt_file_is_set_aside
78   unit/store::a_newer_schema_is_never_written
79   contract/costs::kill_9_never_corrupts_and_loses_less_than_a_second unit/usage_schema::the_database_survives_kill_9_by_its_settings
80   scripts/chaos descriptors
81   contract/no_threads::requests contract/no_threads::signals_and_commands chaos/state::where_no_thread_can_be_had_those_that_run_go_on
82   contract/body_memory::what_has_no_room_is_refused_and_all_of_it_comes_back contract/body_memory::continuing_streams_are_counted
83   scripts/chaos clock unit/tokens::a_clock_that_is_set_back_does_not_keep_a_failure
84   chaos/state::a_process_that_slept_goes_on contract/connections::old_connections_are_dropped_when_taken
85   scripts/chaos log-pipe unit/log::a_full_pipe_is_not_waited_for unit/log::a_closed_descriptor_is_no_sink
86   unit/log::the_file_rotates_and_keeps_so_many
87   contract/own_faults::a_bug_in_a_connection_is_told_and_counted contract/own_faults::a_bug_on_the_pumps_clock_ends_no_stream
88   unit/stream::a_stream_older_than_its_limit_ends contract/errors::silence_everywhere unit/failover::the_deadline_ends_everything
89   contract/control_socket::slow_clients_do_not_delay_others_and_are_dropped contract/control_socket::silent_clients_do_not_keep_the_others_out contract/control_abuse::no_violation
90   contract/start::a_port_in_use_is_98 e2e/seed::a_port_in_use_is_said_and_is_exit_98
91   = ccm knows no Redis: what several processes share goes through their supervisor (contract/test_workers.py)
92   = as 91
93   contract/workers::what_one_has_learnt_the_other_knows unit/crew_routing
94   contract/workers::a_worker_that_dies_is_replaced
95   unit/failures::overload_is_never_529_nor_the_word contract/failover::never_more_than_max_retries unit/budget::a_full_outage_is_not_multiplied
S1   contract/smuggling::probe contract/abuse_everywhere::no_violation
S2   contract/smuggling::probe unit/http1::bad_fields
S3   contract/http_door::TestBodies::chunked unit/http1::malformed_chunks
S4   contract/smuggling::probe contract/http_door::TestConnections::an_error_leaves_the_connection_usable
S5   unit/http1::bad_fields contract/smuggling::probe
S6   unit/http1::bad_request_lines
S7   contract/abuse_everywhere::no_violation unit/http1::bad_fields
S8   contract/http_door::TestBodies::too_large_is_413_before_it_is_read contract/http_door::TestBodies::no_100_for_a_body_that_is_refused
S9   unit/parse::bad_bodies_are_400 contract/http_door::TestBodies::bad_json_is_400
S10  scripts/chaos slow-clients contract/control_socket::slow_clients_do_not_delay_others_and_are_dropped
S11  contract/http_door::TestWhoMayComeIn::a_foreign_host_is_403 e2e/hostile_page::a_page_whose_name_was_bound_anew_gets_nothing
S12  contract/smuggling::probe contract/abuse_everywhere::no_violation
S13  contract/http_door::TestWhoMayComeIn::web_pages_are_403 contract/http_door::TestBodies::text_plain_is_refused e2e/hostile_page::a_page_of_another_origin_gets_nothing
S14  contract/http_door::TestWhoMayComeIn::no_preflight_is_granted e2e/hostile_page::a_preflight_grants_nothing
S15  contract/http_door::TestWhoMayComeIn::a_wrong_token_is_401_for_good contract/http_door::TestWhoMayComeIn::the_token_in_either_header
S16  unit/config_urls::bad_listen unit/config_load::listen_of_the_command_line_obeys_the_same_rules
S17  contract/abuse_everywhere::no_violation
S18  unit/config_urls::refused_base_urls contract/connections::the_resolved_address_is_judged contract/connections::a_refused_address_gets_no_byte
S19  contract/failover::redirects_are_never_followed contract/connections::a_redirecting_provider_is_told_and_left
S20  contract/connections::the_environment_does_not_matter contract/connections::the_key_log_of_openssl_stays_unwritten
S21  contract/reliability::what_is_too_large_is_given_up_and_another_is_asked contract/http_door::TestHeaders::the_upstream_is_asked_for_plain_bytes
S22  contract/smuggling::a_providers_head_splits_no_answer unit/http1::bad_responses
S23  contract/http_door::TestWhoMayComeIn::the_clients_token_never_reaches_the_provider contract/passthrough::the_own_key_goes_to_nobody_else
S24  contract/secret_canaries::no_canary_sings chaos/canaries::no_canary_sings_elsewhere
S25  unit/redact::every_spelling_is_masked unit/redact::a_key_broken_over_lines_is_masked
S26  contract/metrics_door::bodies_are_written_for_a_while_and_it_is_told unit/usage_schema::no_column_holds_what_was_said
S27  unit/log::hostile_text_stays_in_one_harmless_line unit/statusline::names_cannot_steer_the_terminal
S28  = ccm serves no page; what it shows of strangers' names is text in a terminal (S27) or in labels (S39)
S29  contract/abuse_everywhere::no_violation contract/http_door::TestPaths::unknown_paths
S30  contract/http_door::TestPaths::wrong_methods contract/abuse_everywhere::no_violation
S31  unit/config_load::a_file_that_everybody_can_change_is_refused unit/config_secrets::a_key_file_that_others_can_reach_is_refused
S32  contract/hygiene::everything_it_writes_is_private unit/control_state::a_planted_symlink_is_not_followed unit/store::a_symbolic_link_is_not_followed
S33  contract/control_script::a_stale_pid_file_kills_nobody contract/control_script::two_starts_at_once_are_one
S34  contract/control_socket::nobody_else_gets_in contract/control_socket::a_live_socket_is_never_taken contract/control_socket::unsafe_places_are_refused
S35  contract/hygiene::a_key_command_sees_no_keys unit/config_secrets::a_command_sees_no_keys
S36  contract/hygiene::no_secret_is_taken_from_a_command_line contract/hygiene::its_process_shows_and_dumps_nothing
S37  contract/abuse_everywhere::no_violation scripts/check bandit
S38  unit/hostile_text::nothing_that_runs_text_is_used scripts/check bandit
S39  contract/metrics_door::the_official_parser_reads_it_whatever_models_are_called unit/metrics::ten_thousand_names_are_no_more_than_a_few_hundred_series
S40  unit/hostile_text::long_input_takes_no_time
S41  unit/hostile_text::ids_cannot_be_guessed
S42  contract/hygiene::its_process_shows_and_dumps_nothing contract/hardening::nobody_but_root_gets_at_the_process_and_it_gets_at_itself
S43  contract/connections::old_tls_is_refused contract/connections::a_certificate_of_another_name_is_refused
S44  scripts/check pip_audit e2e/pyz::the_same_bytes_every_time
S45  = as 91
A1   contract/abuse_everywhere::no_violation contract/control_abuse::no_violation scripts/trust tests.abuse
A2   contract/smuggling::probe unit/http1::bad_request_lines
A3   fuzz/short::nothing_unexpected_comes_out scripts/fuzz tests.fuzz
A4   scripts/chaos slow-clients
A5   scripts/chaos streams contract/streams::a_hundred_streams_at_once
A6   scripts/bench tests.bench
A7   scripts/chaos mixed chaos/chaos::promises_are_kept
A8   scripts/chaos outage
A9   scripts/chaos cuts scripts/chaos sdk-cuts
A10  e2e/claude_code::a_failing_first_provider_is_never_noticed e2e/claude_code::a_stream_broken_in_the_middle_is_survived scripts/fidelity tests.fidelity
A11  scripts/chaos kills
A12  scripts/chaos upgrades
A13  scripts/chaos reloads
A14  scripts/chaos soak
A15  chaos/canaries::no_canary_sings_elsewhere contract/secret_canaries::no_canary_sings
A16  scripts/chaos full-disk scripts/chaos descriptors scripts/chaos clock scripts/chaos log-pipe
A17  scripts/chaos books
A18  property/routing::TestBreaker property/routing::TestRouter
"""
WANTED = [*map(str, range(1, 96)), *(f"S{n}" for n in range(1, 46)), *(f"A{n}" for n in range(1, 19))]


def table() -> dict[str, str]:
    return dict(line.split(maxsplit=1) for line in ROWS.strip().splitlines())


@functools.cache
def names_of(path: Path) -> frozenset[str]:
    """`name`, `Class` and `Class::name` of what pytest finds in a file."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {f"{node.name}::{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
        elif isinstance(node, ast.Assign):  # TestBreaker = BreakerMachine.TestCase
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return frozenset(found)


@functools.cache
def scenarios() -> frozenset[str]:
    texts = [(ROOT / "tests" / "chaos" / name).read_text() for name in ("suite.py", "lifecycle.py")]
    tables = [re.search(r"^SCENARIOS.*?^}", text, re.M | re.S) for text in texts]
    return frozenset(name for found in tables if found for name in re.findall(r'"([a-z-]+)":', found[0]))


def missing(held: str) -> list[str]:
    """What a row names and does not exist."""
    if held.startswith("= "):
        return []
    absent = []
    words = iter(held.split())
    for word in words:
        if word == "scripts/chaos":
            name = next(words)
            absent += [] if name in scenarios() else [f"{word} {name}"]
        elif word.startswith("scripts/"):
            needle = next(words)
            absent += [] if needle in (ROOT / word).read_text() else [f"{word} {needle}"]
        else:
            file, _, name = word.partition("::")
            room, _, file = file.partition("/")
            path = ROOT / "tests" / room / f"test_{file}.py"
            *outer, last = name.split("::")
            wanted = "::".join([*outer, last if last.startswith("Test") else f"test_{last}"])
            if not path.exists() or (name and wanted not in names_of(path)):
                absent.append(word)
    return absent


@pytest.mark.parametrize("row", WANTED)
def test_a_row_is_held(row: str) -> None:
    held = table().get(row)
    assert held, "no test, and no reason"
    assert missing(held) == []


def test_there_are_no_others() -> None:
    assert list(table()) == WANTED
    assert len(ROWS.strip().splitlines()) == len(WANTED), "a row stands there twice"


def test_what_does_not_exist_is_missed() -> None:
    assert missing("unit/sse::frames scripts/chaos cuts scripts/check bandit") == []
    wrong = "unit/sse::frame unit/nothing::frames scripts/chaos cut scripts/check bandits contract/http_door::TestBodies::no"
    assert len(missing(wrong)) == 5


def test_the_numbers_are_those_of_the_specification() -> None:
    shared = Path(os.environ.get("CCM_SHARED") or ROOT.parent / "shared") / "RELIABILITY.md"
    if not shared.exists():
        pytest.skip(f"there is no {shared}")
    assert re.findall(r"^\| ([SA]?\d+) \|", shared.read_text(), re.M) == WANTED
