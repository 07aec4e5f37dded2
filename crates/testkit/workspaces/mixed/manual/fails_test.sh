#!/bin/bash
echo this test fails by design
exit 3
