/* SPDX-License-Identifier: MIT */
#include "fs/timing.h"

#include "tests/unit/unit.h"

static void each_is_in_one_bucket(void)
{
	struct timing timing = { 0 };
	uint64_t n = 0;
	unsigned i;

	timing_add(&timing, 0);
	timing_add(&timing, 1000000);
	timing_add(&timing, 1000001);
	timing_add(&timing, UINT64_C(60000000000));
	timing_add(&timing, UINT64_C(60000000001));
	CHECK(timing.n == 5 && timing.sum_ns == UINT64_C(120002000002));
	CHECK(timing.bucket[0] == 2 && timing.bucket[1] == 1 && timing.bucket[TIMING_BOUNDS - 1] == 1);
	for (i = 0; i < TIMING_BOUNDS; i++) {
		n += timing.bucket[i];
		CHECK(!i || timing_bounds_ms[i] > timing_bounds_ms[i - 1]);
	}
	CHECK(n == 4); /* one is above all */
}

int main(void)
{
	TEST(each_is_in_one_bucket);
	return 0;
}
