# FindSentencePiece: targets SentencePiece::SentencePiece and SentencePiece::Train
# (Debian's libsentencepiece-dev ships pkg-config data only; its version is the library's file name).
include(FindPackageHandleStandardArgs)
find_path(SentencePiece_INCLUDE_DIR sentencepiece_processor.h)
find_library(SentencePiece_LIBRARY NAMES sentencepiece)
find_library(SentencePiece_TRAIN_LIBRARY NAMES sentencepiece_train)
mark_as_advanced(SentencePiece_INCLUDE_DIR SentencePiece_LIBRARY SentencePiece_TRAIN_LIBRARY)
find_package(PkgConfig QUIET)
if(PkgConfig_FOUND)
  pkg_check_modules(_sentencepiece QUIET sentencepiece)
endif()
set(SentencePiece_VERSION "${_sentencepiece_VERSION}")
if(NOT SentencePiece_VERSION)
  set(SentencePiece_VERSION "${SentencePiece_FIND_VERSION}")  # headers carry no version
endif()
find_package_handle_standard_args(SentencePiece
  REQUIRED_VARS SentencePiece_LIBRARY SentencePiece_TRAIN_LIBRARY SentencePiece_INCLUDE_DIR
  VERSION_VAR SentencePiece_VERSION)
if(SentencePiece_FOUND AND NOT TARGET SentencePiece::SentencePiece)
  add_library(SentencePiece::SentencePiece UNKNOWN IMPORTED)
  set_target_properties(SentencePiece::SentencePiece PROPERTIES
    IMPORTED_LOCATION "${SentencePiece_LIBRARY}" INTERFACE_INCLUDE_DIRECTORIES "${SentencePiece_INCLUDE_DIR}")
  add_library(SentencePiece::Train UNKNOWN IMPORTED)
  set_target_properties(SentencePiece::Train PROPERTIES
    IMPORTED_LOCATION "${SentencePiece_TRAIN_LIBRARY}" INTERFACE_LINK_LIBRARIES SentencePiece::SentencePiece)
endif()
