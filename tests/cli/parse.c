/* parse.c - what people type and what files hold: numbers, sizes, durations, JSON in and out, models, rank specs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "cli/json.h"
#include "cli/json_read.h"
#include "cli/model.h"
#include "cli/ranks.h"
#include "cli/units.h"

static void assert_says(const struct reason *why, const char *part)
{
	if (!strstr(why->text, part))
		fail_msg("'%s' does not say '%s'", why->text, part);
}

static void sizes_are_exact_and_strict(void **state)
{
	static const struct {
		const char *text;
		uint64_t bytes;
	} good[] = {{"0", 0}, {"4096", 4096}, {"256MiB", 268435456}, {"1.5GB", 1500000000},
		{"1.5GiB", 1610612736}, {"0.5KiB", 512}, {"64kB", 64000}, {"2gib", 2147483648u}, {"7B", 7},
		{"18446744073709551615", UINT64_MAX}};
	static const char *const bad[] = {"", " 1", "1 ", "-1", "+1", "1.", ".5", "1.5", "0.3B", "1.2.3",
		"12k", "12Mi", "1e6", "0x10", "99999999999999999999", "16777216TiB", "MiB", "1,5GB"};
	struct reason why;
	uint64_t bytes;

	(void)state;
	for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
		assert_true(units_parse_size(good[i].text, 0, UINT64_MAX, &bytes, &why));
		assert_int_equal(bytes, good[i].bytes);
	}
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		bytes = 77;
		if (units_parse_size(bad[i], 0, UINT64_MAX, &bytes, &why))
			fail_msg("'%s' was read as %llu", bad[i], (unsigned long long)bytes);
		assert_int_equal(bytes, 77);
		if (*bad[i])
			assert_says(&why, bad[i]);
	}
	assert_false(units_parse_size("1KiB", 4096, UINT64_C(1) << 30, &bytes, &why));
	assert_string_equal(why.text, "'1KiB' is out of range; allowed: 4.00 KiB to 1.00 GiB");
}

static void durations_need_a_unit(void **state)
{
	struct reason why;
	uint64_t ns;

	(void)state;
	assert_true(units_parse_duration("60s", 0, UINT64_MAX, &ns, &why) && ns == UINT64_C(60000000000));
	assert_true(units_parse_duration("1.5ms", 0, UINT64_MAX, &ns, &why) && ns == 1500000);
	assert_true(units_parse_duration("2h", 0, UINT64_MAX, &ns, &why) && ns == UINT64_C(7200000000000));
	assert_true(units_parse_duration("0", 0, UINT64_MAX, &ns, &why) && ns == 0);
	assert_false(units_parse_duration("60", 0, UINT64_MAX, &ns, &why));
	assert_says(&why, "units: ns, us, ms, s, m, h");
	assert_false(units_parse_duration("-5s", 0, UINT64_MAX, &ns, &why));
	assert_false(units_parse_duration("0.5ns", 0, UINT64_MAX, &ns, &why));
	assert_false(units_parse_duration("2s", 0, UINT64_C(1000000000), &ns, &why));
}

static void numbers_name_their_range(void **state)
{
	struct reason why;
	uint64_t number = 5;

	(void)state;
	assert_true(units_parse_number("12", 1, 12, &number, &why) && number == 12);
	assert_false(units_parse_number("13", 1, 12, &number, &why));
	assert_string_equal(why.text, "'13' is out of range; allowed: 1 to 12");
	assert_false(units_parse_number("18446744073709551616", 0, UINT64_MAX, &number, &why));
	assert_false(units_parse_number("3.0", 0, 10, &number, &why));
	assert_string_equal(why.text, "'3.0' is not a whole number");
	assert_false(units_parse_number("", 0, 10, &number, &why));
	assert_int_equal(number, 12);
}

static void people_read_short_forms(void **state)
{
	char text[32];

	(void)state;
	assert_string_equal(units_format_bytes(1023, text), "1023 B");
	assert_string_equal(units_format_bytes(1536, text), "1.50 KiB");
	assert_string_equal(units_format_bytes(UINT64_MAX, text), "16.0 EiB");
	assert_string_equal(units_format_duration(999, text), "999 ns");
	assert_string_equal(units_format_duration(1500000, text), "1.50 ms");
	assert_string_equal(units_format_count(1234567, text), "1,234,567");
	assert_string_equal(units_format_count(123, text), "123");
}

static void a_mistyped_word_finds_its_neighbour(void **state)
{
	static const char *const words[] = {"tokens", "block-tokens", "prefill", "decode", "json"};

	(void)state;
	assert_string_equal(reason_nearest("tokns", words, 5), "tokens");
	assert_string_equal(reason_nearest("dcode", words, 5), "decode");
	assert_string_equal(reason_nearest("block_tokens", words, 5), "block-tokens");
	assert_null(reason_nearest("zzz", words, 5));
	assert_null(reason_nearest("somethingcompletelydifferentandverylongindeed-somethingelse", words, 5));
}

/* ------------------------------------------------------------------- JSON */

static void json_is_written_right(void **state)
{
	char *text = NULL;
	size_t len;
	FILE *memory = open_memstream(&text, &len);
	struct json json;

	(void)state;
	json_init(&json, memory);
	json_object(&json, NULL);
	json_string(&json, "s", "a\"b\\\n\x01\xff\xc3\xa4");
	json_array(&json, "list");
	json_u64(&json, NULL, UINT64_MAX);
	json_i64(&json, NULL, -5);
	json_double(&json, NULL, 0.1);
	json_double(&json, NULL, 0.0 / 0.0);
	json_fixed(&json, NULL, 1.23456, 2);
	json_object(&json, NULL);
	json_end(&json);
	json_end(&json);
	json_bool(&json, "t", true);
	json_null(&json, "n");
	json_end(&json);
	fclose(memory);
	assert_string_equal(text,
		"{\"s\": \"a\\\"b\\\\\\n\\u0001\xef\xbf\xbd\xc3\xa4\", "
		"\"list\": [18446744073709551615, -5, 0.1, null, 1.23, {}], \"t\": true, \"n\": null}\n");
	free(text);
}

static void json_is_read_strictly(void **state)
{
	static const struct {
		const char *text;
		const char *says;
	} bad[] = {{"", "ends too early"}, {"{", "ends too early"}, {"[1,]", "not a JSON value"},
		{"{\"a\":1,}", "name in quotes"}, {"{a:1}", "name in quotes"}, {"[1 2]", "',' or ']'"},
		{"01", "leading zero"}, {"-", "too early"}, {"1.", "too early"}, {"1.x", "digit is missing"},
		{"\"\\x\"", "escape"}, {"\"\\u12g4\"", "escape"}, {"\"\\ud800\"", "surrogate"},
		{"\"\xff\"", "UTF-8"}, {"\"\xc0\x80\"", "UTF-8"}, {"\"\xed\xa0\x80\"", "UTF-8"},
		{"\"a\nb\"", "control character"}, {"tru", "not a JSON value"}, {"nul", "not a JSON value"},
		{"1 1", "something follows"}, {"\"abc", "ends too early"}, {"{\"a\" 1}", "':' is missing"},
		{"+1", "not a JSON"}, {"// x\n1", "not a JSON value"}, {"NaN", "not a JSON value"}};
	struct json_doc doc = {0};
	struct reason why;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		/* An exact copy on the heap, so that a sanitizer sees any byte read behind the end. */
		size_t len = strlen(bad[i].text);
		char *copy = malloc(len + (len == 0));

		assert_non_null(copy);
		memcpy(copy, bad[i].text, len);
		if (json_doc_read(&doc, copy, len, &why))
			fail_msg("'%s' was read", bad[i].text);
		assert_says(&why, bad[i].says);
		assert_says(&why, "column ");
		free(copy);
	}
	json_doc_fini(&doc);
}

static void json_errors_have_a_place(void **state)
{
	static const char text[] = "{\n \"a\": 1,\n \"b\": x}";
	struct json_doc doc = {0};
	struct reason why;

	(void)state;
	assert_false(json_doc_read(&doc, text, sizeof text - 1, &why));
	assert_string_equal(why.text, "line 3, column 7: not a JSON value");
	json_doc_fini(&doc);
}

static void json_members_are_found(void **state)
{
	static const char text[] = "{\"a\": [1, {\"b\": 2}], \"\\u0062\": \"\\ud83d\\ude00\\n\", \"n\": 1.5, "
				   "\"a\": 7, \"big\": 18446744073709551615}";
	struct json_doc doc = {0};
	struct reason why;
	char string[16];
	uint64_t number;

	(void)state;
	assert_true(json_doc_read(&doc, text, sizeof text - 1, &why));
	assert_int_equal(json_doc_count(&doc, 0, "a"), 2);
	assert_true(json_doc_u64(&doc, json_doc_member(&doc, 0, "a"), &number) && number == 7);
	assert_true(json_doc_string(&doc, json_doc_member(&doc, 0, "b"), string, sizeof string));
	assert_string_equal(string, "\xf0\x9f\x98\x80\n");
	assert_false(json_doc_string(&doc, json_doc_member(&doc, 0, "b"), string, 5));
	assert_false(json_doc_u64(&doc, json_doc_member(&doc, 0, "n"), &number));
	assert_true(json_doc_u64(&doc, json_doc_member(&doc, 0, "big"), &number) && number == UINT64_MAX);
	assert_int_equal(json_doc_member(&doc, 0, "c"), JSON_NONE);
	assert_false(json_doc_u64(&doc, JSON_NONE, &number));
	json_doc_fini(&doc);
}

static void json_depth_is_bounded(void **state)
{
	char text[2 * 40 + 1];
	struct json_doc doc = {0};
	struct reason why;

	(void)state;
	memset(text, '[', 40);
	memset(text + 40, ']', 40);
	assert_false(json_doc_read(&doc, text, 80, &why));
	assert_says(&why, "nested too deeply");
	assert_true(json_doc_read(&doc, text + 8, 64, &why));
	assert_false(json_doc_read(&doc, text, (size_t)JSON_READ_MAX_BYTES + 1, &why));
	json_doc_fini(&doc);
}

/* ----------------------------------------------------------------- models */

static struct model model; /* too large for a stack */

static void built_in_models_have_their_layers(void **state)
{
	struct reason why;

	(void)state;
	assert_true(model_parse("nemotron-h-8b", &model, &why));
	assert_int_equal(model.kvf.n_groups, 2);
	assert_int_equal(model.n_layers, 28);
	assert_int_equal(model.groups[0].n_layers, 4);
	assert_int_equal(model.groups[0].layers[0], 4);
	assert_int_equal(model.groups[0].layers[3], 22);
	assert_int_equal(model.groups[1].kind, KVF_STATE);
	assert_int_equal(model.state_bytes, 24 * (61440 + 4194304));
	assert_true(model_parse("gpt-oss-120b", &model, &why));
	assert_int_equal(model.groups[0].kind, KVF_PAGED);
	assert_int_equal(model.groups[0].layers[0], 1);
	assert_int_equal(model.groups[1].window_tokens, 128);
	assert_int_equal(model.groups[1].n_layers, 18);
	assert_false(model_parse("llama-3.1-8", &model, &why));
	assert_says(&why, "did you mean llama-3.1-8b?");
}

static void inline_models_interleave_attention_and_state(void **state)
{
	struct reason why;

	(void)state;
	assert_true(
		model_parse("layers=2,heads=4,head_dim=128,dtype=fp32,state=4:112:8x6+2x32", &model, &why));
	assert_int_equal(model.n_layers, 6);
	assert_int_equal(model.groups[0].layers[0], 1);
	assert_int_equal(model.groups[0].layers[1], 4);
	assert_int_equal(model.groups[1].layers[3], 5);
	assert_int_equal(model.groups[1].parts[1].heads, 2);
	assert_int_equal(model.groups[1].parts[1].row_bytes, 32);
	assert_int_equal(model.bytes_per_token, 2 * 2 * 4 * 512);
	assert_true(model_parse("dtype=fp8,mla,layers=61,head_dim=576", &model, &why));
	assert_int_equal(model.groups[0].n_parts, 1);
	assert_int_equal(model.bytes_per_token, 61 * 576);
	assert_true(model_parse("layers=3,heads=1,head_dim=8,dtype=bf16,window=16:every=1", &model, &why));
	assert_int_equal(model.kvf.n_groups, 1);
	assert_int_equal(model.groups[0].kind, KVF_WINDOW);
}

static void inline_models_are_refused_by_field(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {{"layers=4,heads=4,head_dim=128", "'dtype' is missing"},
		{"layers=4,head_dim=128,dtype=fp32", "'heads' is missing"},
		{"layers=4,heads=4,head_dim=128,dtype=fp64", "dtype: 'fp64'"},
		{"layers=0,heads=4,head_dim=1,dtype=fp32", "layers: '0'"},
		{"layers=4,heads=2,head_dim=128,dtype=fp32,mla", "heads: mla"},
		{"layers=4,heds=2", "did you mean 'heads'?"}, {"layers=4,layers=5", "layers is given twice"},
		{"layers=4,heads=4,head_dim=128,dtype=fp32,window=16", "window: '16'"},
		{"layers=4,heads=4,head_dim=128,dtype=fp32,window=16:every=0", "window: every: '0'"},
		{"layers=4,heads=4,head_dim=128,dtype=fp32,state=2:100:8x6+2x32",
			"BYTES per layer is 100, but the sections add up to 112"},
		{"layers=4,heads=4,head_dim=128,dtype=fp32,state=2:100", "state: '2:100' is not"},
		{"layers=4,heads=4,head_dim=128,dtype=fp32,state=2:9:1x1+1x1+1x1+1x1+1x1+1x1+1x1+1x1+1x1",
			"more than 8 sections"},
		{"layers=1024,heads=4,head_dim=128,dtype=fp32,state=2:1:1x1", "exceed 1024"},
		{"layers=,heads=4", "layers: the value is missing"},
		{"layers=4,,heads=4", "unknown model field ''"}, {"mla=1,layers=4", "mla: takes no value"}};
	struct reason why;

	(void)state;
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (model_parse(bad[i].text, &model, &why))
			fail_msg("'%s' was accepted", bad[i].text);
		assert_says(&why, bad[i].says);
	}
}

/* ------------------------------------------------------------- rank specs */

static void rank_specs_take_any_order(void **state)
{
	static struct ranks ranks;
	struct reason why;
	char text[160];

	(void)state;
	assert_true(model_parse("layers=5,heads=8,head_dim=128,dtype=bf16", &model, &why));
	assert_true(ranks_parse("layout=nhd,stages=3:2,pp=2,block=16,attention-dp,tp=4,order=tp:pp:cp",
		KVF_PREFILL, &model, 32, &ranks, &why));
	assert_int_equal(ranks.parallel.dp, 4);
	assert_int_equal(ranks.parallel.stages[0], 3);
	assert_int_equal(ranks.memory_order, KVF_LAYER_NHD);
	assert_int_equal(ranks.tokens_per_block, 16);
	assert_int_equal(ranks.n, 8);
	assert_string_equal(ranks.parallel.rank_order, "tp:pp:cp");
	ranks_describe(&ranks, text, sizeof text);
	assert_string_equal(text, "tp=4 pp=2 attention-dp dp=4: 8 ranks, nhd, 16 tokens a block");
	assert_true(ranks_parse("tp=4,dp=2,attention-dp,cp=2", KVF_DECODE, &model, 32, &ranks, &why));
	assert_int_equal(ranks.parallel.dp, 2);
	assert_int_equal(ranks.tokens_per_block, 32);
	assert_null(ranks.parallel.stages);
}

static void rank_specs_are_refused_by_key(void **state)
{
	static const struct {
		const char *text, *says;
	} bad[] = {{"tp=4,dp=2", "dp: dp=2 needs attention-dp"},
		{"tp=4,dp=3,attention-dp", "dp: dp=3 does not divide tp=4"},
		{"cp=2", "cp: cp=2 on the prefill side"},
		{"pp=6", "pp: pp=6 is more than the model's 5 layers"},
		{"pp=2,stages=3:3", "stages: they sum to 6, but the model has 5 layers"},
		{"pp=2,stages=5", "stages: 1 entries, but pp=2"}, {"pp=2,stages=5:0", "stages: stage 1: '0'"},
		{"tp=0", "tp: '0' is out of range; allowed: 1 to 4096"}, {"tp=-1", "tp: '-1'"},
		{"tp=4096,pp=2", "8192 ranks; at most 4096"}, {"tpp=2", "did you mean 'tp'?"},
		{"layout=vllm", "layout: 'vllm'"}, {"order=tp:pp", "order: 'tp:pp'"},
		{"block=0", "block: '0'"}, {"tp=2,tp=2", "tp is given twice"},
		{"tp", "tp: the value is missing"}, {"attention-dp=2", "attention-dp: takes no value"},
		{"", "unknown key ''"}, {"tp=1000000000000000000000", "tp: "}};
	static struct ranks ranks;
	struct reason why;

	(void)state;
	assert_true(model_parse("layers=5,heads=8,head_dim=128,dtype=bf16", &model, &why));
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		if (ranks_parse(bad[i].text, KVF_PREFILL, &model, 32, &ranks, &why))
			fail_msg("'%s' was accepted", bad[i].text);
		assert_says(&why, bad[i].says);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_are_exact_and_strict),
		cmocka_unit_test(durations_need_a_unit),
		cmocka_unit_test(numbers_name_their_range),
		cmocka_unit_test(people_read_short_forms),
		cmocka_unit_test(a_mistyped_word_finds_its_neighbour),
		cmocka_unit_test(json_is_written_right),
		cmocka_unit_test(json_is_read_strictly),
		cmocka_unit_test(json_errors_have_a_place),
		cmocka_unit_test(json_members_are_found),
		cmocka_unit_test(json_depth_is_bounded),
		cmocka_unit_test(built_in_models_have_their_layers),
		cmocka_unit_test(inline_models_interleave_attention_and_state),
		cmocka_unit_test(inline_models_are_refused_by_field),
		cmocka_unit_test(rank_specs_take_any_order),
		cmocka_unit_test(rank_specs_are_refused_by_key),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
