#include "cpp/greeting.h"
#include "cpp/number.h"

int main() { return Greeting("mortar") == "hello mortar" && kNumber == 42 ? 0 : 1; }
