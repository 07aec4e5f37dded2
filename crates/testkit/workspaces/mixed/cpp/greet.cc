#include <iostream>

#include "cpp/greeting.h"

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) std::cout << Greeting(argv[i]) << "\n";
  return 0;
}
